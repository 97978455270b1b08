package inspect_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// localErofs runs the erofs-utils of this machine.
type localErofs struct{ dir string }

func (l localErofs) Work(context.Context) (string, error) { return os.MkdirTemp(l.dir, "work-") }

func (l localErofs) Run(ctx context.Context, work string, args ...string) error {
	return command(ctx, "fsck.erofs", "--extract="+filepath.Join(work, "out/root"),
		filepath.Join(work, "src/root.erofs"))
}

func command(ctx context.Context, name string, args ...string) error {
	if text, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, text)
	}
	return nil
}

// erofsImage makes an image of an archive. The mkfs.erofs of this machine may be too old to read archives.
func erofsImage(t testing.TB, archive string) []byte {
	t.Helper()
	dir := t.TempDir()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	err := os.Mkdir(tree, 0o755)
	if err == nil {
		err = command(t.Context(), "tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "-f", archive, "-C",
			tree)
	}
	if err == nil {
		err = command(t.Context(), "mkfs.erofs", "--preserve-mtime", "-U00000000-0000-0000-0000-000000000000",
			image, tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// erofsTree is an archive with one entry of each type, and of a directory with more names than a block holds.
func erofsTree(t testing.TB, change func(*tar.Header) bool) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	headers := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/hello", Mode: 0o4755, Size: 5},
		{Typeflag: tar.TypeReg, Name: "bin/owned", Mode: 0o640, Uid: 70000, Gid: 12},
		{Typeflag: tar.TypeReg, Name: "bin/noted", Mode: 0o644,
			PAXRecords: map[string]string{"SCHILY.xattr.user.note": "one"}},
		{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "hello"},
		{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		{Typeflag: tar.TypeDir, Name: "many/", Mode: 0o1777},
	}
	for i := range 400 {
		headers = append(headers, &tar.Header{Typeflag: tar.TypeReg,
			Name: fmt.Sprintf("many/file-with-a-long-name-%03d", i), Mode: 0o644})
	}
	for _, h := range headers {
		h.ModTime = time.Unix(1_500_000_000, 0)
		if change != nil && !change(h) {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "hello"[:h.Size])
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestErofsInside lists and compares erofs roots that another program made.
func TestErofsInside(t *testing.T) {
	require.Root(t) // to make the tree that mkfs.erofs reads
	for _, name := range []string{"tar", "mkfs.erofs", "fsck.erofs"} {
		require.Command(t, name)
	}
	tools := localErofs{t.TempDir()}
	build := func(change func(*tar.Header) bool) *eif.File {
		image := erofsImage(t, erofsTree(t, change))
		f, size := enclaves.Write(t, parts(part(eif.Ramdisk,
			cpio(dir("neb"), reg("neb/root.0", string(image))))))
		file, err := eif.Open(f, size)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	a := build(nil)
	b := build(func(h *tar.Header) bool {
		switch h.Name {
		case "bin/hello":
			h.Size = 4
		case "bin/owned":
			h.Uid, h.ModTime = 0, time.Unix(1_600_000_000, 0)
		case "bin/noted":
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "two"}
		case "bin/link":
			h.Linkname = "owned"
		case "null":
			h.Devminor = 4
		case "many/file-with-a-long-name-300":
			h.Mode = 0o600
		case "many/file-with-a-long-name-399":
			return false
		}
		return true
	})
	var list bytes.Buffer
	if err := inspect.ListRamdisks(t.Context(), a, &list); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 drwxr-xr-x 0:0 0 rootfs/bin\n", "1 -rwsr-xr-x 0:0 5 rootfs/bin/hello\n",
		"1 -rw-r----- 70000:12 0 rootfs/bin/owned\n", " rootfs/bin/link -> hello\n",
		"1 crw-rw-rw- 0:0 0 rootfs/null\n", "1 prw------- 0:0 0 rootfs/pipe\n",
		"1 drwxrwxrwt 0:0 0 rootfs/many\n", " rootfs/many/file-with-a-long-name-399\n",
	} {
		if !strings.Contains(list.String(), want) {
			t.Errorf("the list lacks %q:\n%.2000s", want, list.String())
		}
	}
	if n := strings.Count(list.String(), "rootfs/many/"); n != 400 {
		t.Errorf("%d names in a directory of 400", n)
	}
	diff := func(a, b *eif.File, tools inspect.Tools) []string {
		t.Helper()
		var got []string
		if err := inspect.Diff(t.Context(), a, b, tools, func(d inspect.Difference) {
			got = append(got, d.String())
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	const where, pcrs = "ramdisk 1, erofs root: ", " (PCR0, PCR2)"
	want := []string{
		where + "bin/hello: size 5 and 4" + pcrs,
		where + `bin/link: target "hello" and "owned"` + pcrs,
		where + `bin/noted: extended attributes user.note="one" and user.note="two"` + pcrs,
		where + "bin/owned: owner 70000:12 and 0:12, time 1500000000 and 1600000000" + pcrs,
		where + "many/file-with-a-long-name-300: mode -rw-r--r-- and -rw-------" + pcrs,
		where + "null: device 1:3 and 1:4" + pcrs,
		where + "many/file-with-a-long-name-399: only the first file has it" + pcrs,
	}
	got := slices.DeleteFunc(diff(a, b, tools), func(line string) bool {
		return !strings.HasPrefix(line, where)
	})
	if !slices.Equal(got, want) {
		t.Errorf("the differences are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if left, _ := os.ReadDir(tools.dir); len(left) > 0 {
		t.Errorf("%s is left behind", left[0].Name())
	}
	var warnings []string
	if err := inspect.UnpackRamdisks(t.Context(), a, filepath.Join(t.TempDir(), "parts"), func(line string) {
		warnings = append(warnings, line)
	}); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0],
		"neb/root.0: the application's tree is an erofs image, which is not unpacked") {
		t.Errorf("unpacking an erofs root says %q", warnings)
	}
	// Without the tools it is said that nobody looked.
	if got := strings.Join(diff(a, b, nil), "\n"); !strings.Contains(got, "cannot be compared") {
		t.Errorf("differences without tools: %s", got)
	}
}
