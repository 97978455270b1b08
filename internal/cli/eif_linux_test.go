package cli

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
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestRunMistakes: neb run finds them before it builds an emulator.
func TestRunMistakes(t *testing.T) {
	f := newEIFFiles(t)
	t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "cache"))
	a, _ := f.build(t, "a.eif", "--cmd", "/hello")
	before := readFile(t, a)
	if err := os.Mkdir(f.path("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   string // @ stands for the directory
		status int
		want   string
	}{
		{"run @/a.eif --plot @/a.eif", 2, "would replace the input @/a.eif"},
		{"run @/a.eif --plot @/none/x.svg --offline", 125,
			"--plot: @/none/x.svg: there is no directory @/none"},
		{"run @/cert.pem --offline", 125, "@/cert.pem: "},
		{"run @/tree --offline", 125, "@/tree is not a regular file"},
	} {
		args := strings.Fields(strings.ReplaceAll(test.args, "@/", f.dir+"/"))
		want := strings.ReplaceAll(test.want, "@/", f.dir+"/")
		if status, out, errs := command(args...); status != test.status || !strings.Contains(errs, want) {
			t.Errorf("neb %s: status %d, expected %d and %q; printed %s%s", test.args, status, test.status,
				want, out, errs)
		}
	}
	if !bytes.Equal(before, readFile(t, a)) {
		t.Error("the EIF is another file now")
	}
}

// TestRootFromPipe packs what comes through a pipe, and does not wait for an EIF from one.
func TestRootFromPipe(t *testing.T) {
	f := newEIFFiles(t)
	_, want := f.build(t, "file.eif", "--cmd", "/hello")
	fifo := f.path("fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := command("eif", "describe", fifo); status != 1 ||
		!strings.Contains(errs, "is not a regular file") {
		t.Errorf("neb eif describe: status %d: %s", status, errs)
	}
	for _, content := range [][]byte{readFile(t, f.path("tree.tar")), nil} {
		go os.WriteFile(fifo, content, 0)
		if len(content) > 0 {
			if _, found := f.build(t, "pipe.eif", "--cmd", "/hello", "--rootfs", fifo); !maps.Equal(found,
				want) {
				t.Errorf("through a pipe: %v, expected %v", found, want)
			}
			continue
		}
		if status, _, errs := command("eif", "build", "--rootfs", fifo, "--arch", "x86_64", "--blobs",
			f.path("blobs"), "--nsm=", "--cmd", "x", "-o", f.path("x.eif")); status != 1 ||
			!strings.Contains(errs, "found an empty file") {
			t.Errorf("an empty pipe: status %d: %s", status, errs)
		}
	}
}

// TestCheckImage: neb run warns of what EC2 may reject, and finds the port for the exit report.
func TestCheckImage(t *testing.T) {
	f := newEIFFiles(t)
	good, _ := f.build(t, "good.eif", "--cmd", "/hello", "--exit-report", "9001")
	cut, _ := f.build(t, "cut.eif", "--cmd", "/hello", "--exit-report", "9001")
	content := readFile(t, cut)
	content[len(content)-1] ^= 1
	if err := os.WriteFile(cut, content, 0o644); err != nil {
		t.Fatal(err)
	}
	expired, _ := f.build(t, "expired.eif", "--cmd", "/hello", "--exit-report", "9001",
		"--signing-certificate", f.path("expired.pem"), "--private-key", f.path("key.pem"), "--allow-expired")
	for path, want := range map[string]string{good: "", cut: "checksum mismatch", expired: "valid from"} {
		var said bytes.Buffer
		report, in, err := inspect.ReadFile(t.Context(), path, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := checkImage(streams{err: &said}, path, report); err != nil {
			t.Fatal(err)
		}
		if told := report.Application; told == nil || told.ExitReport != 9001 {
			t.Fatalf("init is told %+v, expected an exit report to port 9001", told)
		}
		if text := said.String(); !strings.Contains(text, want) || (want == "") != (text == "") {
			t.Errorf("%s: %q, expected %q", path, text, want)
		}
	}
}

// TestEmulatorGone runs an image where no mirror has the locked emulator any more.
func TestEmulatorGone(t *testing.T) {
	f := newEIFFiles(t)
	path, _ := f.build(t, "hello.eif", "--cmd", "/hello")
	t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "store"))
	t.Setenv("NEB_MIRROR", "file://"+t.TempDir())
	for version, want := range map[string][]string{
		"":       {"neb update emulator", "install QEMU 10.1 or later", "not found in $PATH"},
		"10.0.2": {"neb update emulator", "expected version 10.1 or later, found", "10.0.2"},
		"11.0.1": {"warning: the locked emulator is gone from the mirrors, using", "neb update emulator"},
	} {
		bin := t.TempDir()
		t.Setenv("PATH", bin)
		for _, program := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
			if version == "" {
				break
			}
			script := "#!/bin/sh\necho QEMU emulator version " + version + "\nexit 0\n"
			if err := os.WriteFile(filepath.Join(bin, program), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		var out, errs bytes.Buffer
		code := Main([]string{"run", path, "--mirror-only", "--attestation-ca", "new", "--timeout", "20s"},
			&out, &errs)
		if code == 0 || version != "11.0.1" && code != exitMachine {
			t.Errorf("QEMU %s: exit status %d", version, code)
		}
		for _, w := range want {
			if !strings.Contains(errs.String(), w) {
				t.Errorf("QEMU %s: expected %q in %s", version, w, &errs)
			}
		}
	}
}

// TestEIFErofs packs a compressed root with the locked tools, in the sandbox: the same bytes twice, its tree
// listed, checked and compared.
func TestEIFErofs(t *testing.T) {
	require.Sandbox(t)
	f := newEIFFiles(t)
	for _, tree := range []struct{ name, hello string }{{"one", "hello"}, {"two", "hallo"}} {
		if err := os.MkdirAll(f.path(tree.name+"/srv"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"hello": tree.hello,
			"srv/data": strings.Repeat("data ", 50000)} {
			if err := os.WriteFile(f.path(tree.name+"/"+name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	var built [][]byte
	for _, build := range []struct{ tree, zone string }{{"one", "UTC"}, {"one", "Asia/Tokyo"},
		{"two", "UTC"}} {
		t.Setenv("TZ", build.zone)
		output := f.path(fmt.Sprintf("%d.eif", len(built)))
		status, _, errs := command("eif", "build", "--rootfs", f.path(build.tree), "--rootfs-format", "erofs",
			"--arch", "x86_64",
			"--blobs", f.path("blobs"), "--nsm=", "--cmd", "/hello", "--allow", "command-format",
			"--output", output)
		if status != 0 {
			t.Fatalf("status %d: %s", status, errs)
		}
		built = append(built, readFile(t, output))
	}
	if !bytes.Equal(built[0], built[1]) {
		t.Error("the same tree was packed to other bytes the second time")
	}
	if status, out, errs := command("eif", "extract", f.path("0.eif"), "--list"); status != 0 ||
		!strings.Contains(out, "srv/data") || !strings.Contains(out, "hello") {
		t.Errorf("extract --list: status %d: %s%s", status, out, errs)
	}
	if status, out, errs := command("eif", "check", f.path("0.eif")); status != 1 ||
		!strings.Contains(out, `"/hello" is neither an ELF program nor begins with #!: found "hello"`) {
		t.Errorf("check: status %d: %s%s", status, out, errs)
	}
	if status, out, errs := command("eif", "diff", f.path("0.eif"), f.path("1.eif")); status != 0 {
		t.Errorf("diff of equal files: status %d: %s%s", status, out, errs)
	}
	if status, out, errs := command("eif", "diff", f.path("0.eif"), f.path("2.eif")); status != 1 ||
		!strings.Contains(out, "hello") || strings.Contains(out, "srv/data") {
		t.Errorf("diff of two trees: status %d: %s%s", status, out, errs)
	}
}

// TestEIFErofsTimes packs an archive with a time of its own on each file, and reads the times back with the
// locked fsck.erofs.
func TestEIFErofsTimes(t *testing.T) {
	require.Sandbox(t)
	f := newEIFFiles(t)
	var tree bytes.Buffer
	w := tar.NewWriter(&tree)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "srv/", Mode: 0o755, ModTime: time.Unix(1_500_000_000, 0)},
		{Typeflag: tar.TypeReg, Name: "srv/old", Mode: 0o644, ModTime: time.Unix(1_400_000_000, 0)},
		{Typeflag: tar.TypeReg, Name: "srv/new", Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0)},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if err := os.WriteFile(f.path("times.tar"), tree.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for epoch, want := range map[string]map[string]int64{
		"":           {"srv": 0, "srv/old": 0, "srv/new": 0},
		"1800000000": {"srv": 1_500_000_000, "srv/old": 1_400_000_000, "srv/new": 1_700_000_000},
		"1600000000": {"srv": 1_500_000_000, "srv/old": 1_400_000_000, "srv/new": 1_600_000_000},
	} {
		t.Setenv("SOURCE_DATE_EPOCH", epoch)
		name, parts := f.path("t"+epoch+".eif"), f.path("parts"+epoch)
		for _, args := range [][]string{
			{"eif", "build", "--rootfs", f.path("times.tar"), "--rootfs-format", "erofs", "--arch", "x86_64",
				"--blobs", f.path("blobs"), "--nsm=", "--cmd", "/x", "--allow", "command-missing",
				"--output", name},
			{"eif", "extract", name, "--output", parts, "--unpack"},
		} {
			if status, _, errs := command(args...); status != 0 {
				t.Fatalf("neb %q: status %d: %s", args, status, errs)
			}
		}
		tools := newBlobBuilder(streams{out: io.Discard, err: io.Discard}, buildFlags{})
		defer tools.close()
		work, err := tools.Work(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(work)
		for _, sub := range []string{"src", "out"} {
			if err := os.MkdirAll(filepath.Join(work, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(work, "src/image"),
			readFile(t, filepath.Join(parts, "1/neb/root.0")), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := tools.Run(t.Context(), work, "/usr/bin/fsck.erofs", "--extract=/out/root",
			"/src/image"); err != nil {
			t.Fatal(err)
		}
		for name, seconds := range want {
			info, err := os.Stat(filepath.Join(work, "out/root", name))
			if err != nil {
				t.Fatal(err)
			}
			if got := info.ModTime().Unix(); got != seconds {
				t.Errorf("SOURCE_DATE_EPOCH=%s: %s: time %d, want %d", epoch, name, got, seconds)
			}
		}
	}
	status, out, errs := command("eif", "diff", f.path("t1800000000.eif"), f.path("t1600000000.eif"))
	if want := "erofs root: srv/new: time 1700000000 and 1600000000"; status != 1 ||
		!strings.Contains(out, want) || strings.Contains(out, "srv/old") {
		t.Errorf("diff: status %d: %s%s\nwant %s alone", status, out, errs, want)
	}
	if status, out, errs := command("eif", "extract", f.path("t.eif"), "--list"); status != 0 ||
		!strings.Contains(out, "1 -rw-r--r-- 0:0 0 rootfs/srv/new\n") {
		t.Errorf("extract --list: status %d: %s%s", status, out, errs)
	}
}
