package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"golang.org/x/sys/unix"
)

func TestAddRoot(t *testing.T) {
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	defer syscall.Umask(syscall.Umask(0))
	check(os.Mkdir(filepath.Join(dir, "d"), 0o750))
	check(os.WriteFile(filepath.Join(dir, "d", "f"), []byte("body"), 0o640))
	check(os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), 300_000), 0o644))
	check(os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "again")))
	check(os.Symlink("/etc/passwd", filepath.Join(dir, "s")))
	check(syscall.Mkfifo(filepath.Join(dir, "p"), 0o600))
	attribute := ""
	// not every file system has them
	if unix.Setxattr(filepath.Join(dir, "large"), "user.note", []byte("v"), 0) == nil {
		attribute = ` user.note="v"`
	}
	link := filepath.Join(t.TempDir(), "link")
	check(os.Symlink(dir, link))
	var tree *image.Tree
	for _, name := range []string{link, dir} {
		tree = newTree(t, image.Limits{})
		left, err := tree.AddRoot(t.Context(), name, "rootfs")
		check(err)
		if len(left) > 0 {
			t.Errorf("left out: %v", left)
		}
		same(t, list(t, tree), []string{
			`40755 rootfs`, `40750 rootfs/d`, `100640 rootfs/d/f body #3 of 2`, `100640 rootfs/again body #3 of 2`,
			`100644 rootfs/large xxxxx… 300000` + attribute, `10600 rootfs/p`, `120777 rootfs/s /etc/passwd`,
		})
	}
	check(os.WriteFile(filepath.Join(dir, "large"), []byte("shorter"), 0o644))
	err := tree.Walk(func(e *image.Entry) error { _, err := tree.CopyBody(io.Discard, e); return err })
	if err == nil || !strings.Contains(err.Error(), "the file changed during the build") {
		t.Errorf("a file that changed: %v", err)
	}
	if _, err := tree.AddRoot(t.Context(), filepath.Join(dir, "none"), ""); err == nil {
		t.Error("no error for a missing directory")
	}

}

// TestRootWithLabels has a directory with extended attributes of this machine, and names that mean something
// in layers, as it is and as a tar archive: one tree.
func TestRootWithLabels(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	for name, body := range map[string]string{"etc/.wh.foo": "1", ".wh..wh..opq": "2", ".wh..wh.plnk/1": "3",
		"bin/ping": "4"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, ".wh..wh.plnk/1"), filepath.Join(dir, "z")); err != nil {
		t.Fatal(err)
	}
	// A capability and an access control list as the kernel has them: user 1000 may read.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x05\x00\xff\xff\xff\xff" +
		"\x20\x00\x05\x00\xff\xff\xff\xff"
	want, kept := map[string]int{}, ""
	archived := map[string]string{}
	for _, x := range []struct{ name, value string }{
		{"security.selinux", "unconfined_u:object_r:user_tmp_t:s0\x00"}, {"system.posix_acl_access", acl},
		{"trusted.overlay.origin", "x"}, {"security.capability", capability}, {"user.note", "v"},
	} {
		// Not every file system has all of them, nor may every user set them. The archive has.
		archived["SCHILY.xattr."+x.name] = x.value
		if err := unix.Setxattr(filepath.Join(dir, "bin/ping"), x.name, []byte(x.value), 0); err != nil {
			t.Logf("%s: %v", x.name, err)
		} else if x.name == "security.capability" || x.name == "user.note" {
			kept += fmt.Sprintf(" %s=%q", x.name, x.value)
		} else {
			want[x.name]++
		}
	}
	lines := []string{
		`40755 .wh..wh.plnk`, `100755 .wh..wh.plnk/1 3 #2 of 2`, `40755 bin`, `100755 bin/ping 4` + kept,
		`40755 etc`, `100755 etc/.wh.foo 1`, `100755 .wh..wh..opq 2`, `100755 z 3 #2 of 2`,
	}
	tree := newTree(t, image.Limits{})
	left, err := tree.AddRoot(t.Context(), dir, "")
	if err != nil || !maps.Equal(left, want) {
		t.Errorf("left out %v, want %v (%v)", left, want, err)
	}
	same(t, list(t, tree), lines)

	executable := func(h *tar.Header) { h.Mode = 0o755 }
	archive := Layer(t,
		File("./etc/.wh.foo", "1").With(executable), File("./.wh..wh..opq", "2").With(executable),
		File("./.wh..wh.plnk/1", "3").With(executable), Link("./z", "./.wh..wh.plnk/1"),
		File("./bin/ping", "4").With(func(h *tar.Header) { h.Mode, h.PAXRecords = 0o755, archived }))
	lines[3] = fmt.Sprintf(`100755 bin/ping 4 security.capability=%q user.note="v"`, capability)
	for _, way := range []Compression{Plain, Gzip, Zstd, Xz} {
		name := filepath.Join(t.TempDir(), "root.tar")
		if err := os.WriteFile(name, way.Pack(t, archive), 0o644); err != nil {
			t.Fatal(err)
		}
		tree := newTree(t, image.Limits{})
		left, err := tree.AddRoot(t.Context(), name, "")
		if want := "map[security.selinux:1 system.posix_acl_access:1 trusted.overlay.origin:1]"; err != nil ||
			fmt.Sprint(left) != want {
			t.Errorf("%s: left out %v, want %s (%v)", way, left, want, err)
		}
		same(t, list(t, tree), lines)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		w.Write(Gzip.Pack(t, archive))
		w.Close()
	}()
	piped := newTree(t, image.Limits{})
	if _, err := piped.AddRoot(t.Context(), fmt.Sprintf("/proc/self/fd/%d", r.Fd()), ""); err != nil {
		t.Fatal(err)
	}
	same(t, list(t, piped), lines)
	empty := filepath.Join(t.TempDir(), "empty.tar")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.AddRoot(t.Context(), empty, ""); err == nil ||
		!strings.Contains(err.Error(), "found an empty file") {
		t.Errorf("an empty file: %v", err)
	}
}
