//go:build linux

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.eif")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is full")
	err := Write(path, func(f *os.File) error {
		f.WriteString("half")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("the old file is %q", b)
	}
	if err := Write(path, func(f *os.File) error { _, err := f.WriteString("new"); return err }); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new" {
		t.Errorf("the new file is %q", b)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the new file's mode is %v (%v)", info.Mode(), err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := Write(link, func(f *os.File) error {
		_, err := f.WriteString("through a link")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "through a link" {
		t.Errorf("a link was replaced: its target is %q", b)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files are left", len(left))
	}
	if err := Write(dir, func(*os.File) error { return nil }); err == nil {
		t.Error("a directory was replaced")
	}
}

// A link to a file that is not there yet is made whole, a loop of links and an open file are refused.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	hello := func(f *os.File) error { _, err := f.WriteString("hello"); return err }
	for from, to := range map[string]string{"dangling": "made", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(filepath.Join(dir, "dangling"), hello); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(b) != "hello" {
		t.Errorf("where the link leads to: %q, %v", b, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "dangling")); err != nil ||
		info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link is %v, %v", info, err)
	}
	if err := Write(filepath.Join(dir, "loop"), hello); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	for _, name := range []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"} {
		if err := Write(name, hello); err == nil || !strings.Contains(err.Error(), name+" is an open file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is before a .. may be a link: the kernel goes to d/x, not to x.
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "d/e"), 0o755), os.Symlink("d/e", filepath.Join(dir, "e")),
		os.Symlink("../x", filepath.Join(dir, "d/e/out")),
		os.WriteFile(filepath.Join(dir, "x"), []byte("precious"), 0o644),
		os.WriteFile(filepath.Join(dir, "d/x"), []byte("old"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(dir+"/e/out", hello); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"x": "precious", "d/x": "hello"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	t.Chdir(dir)
	if err := Write("/proc/self/cwd/by-proc", hello); err != nil {
		t.Error(err)
	}
	if err := Write(filepath.Join(dir, "none", "x"), hello); err == nil ||
		!strings.Contains(err.Error(), "there is no directory "+filepath.Join(dir, "none")) {
		t.Errorf("no directory: %v", err)
	}
	if err := Write(filepath.Join(dir, "made", "x"), hello); err == nil ||
		!strings.Contains(err.Error(), "there is no directory "+filepath.Join(dir, "made")) {
		t.Errorf("below a file: %v", err)
	}
	if err := Write(filepath.Join(dir, strings.Repeat("x", 255)), hello); err != nil {
		t.Errorf("a long name: %v", err)
	}
}

// Who replaces a file of somebody else's does not take it away.
func TestOwner(t *testing.T) {
	require.Root(t)
	path := filepath.Join(t.TempDir(), "theirs")
	if err := errors.Join(os.WriteFile(path, nil, 0o640), os.Chown(path, 1234, 4321)); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, func(*os.File) error { return nil }); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 4321 || info.Mode().Perm() != 0o640 {
		t.Errorf("found %d:%d %v", st.Uid, st.Gid, info.Mode())
	}
}

// Where the file system has no files without names, a killed process leaves one; the others are the same.
func TestWithoutTmpfile(t *testing.T) {
	dir := t.TempDir()
	temp := beside(filepath.Join(dir, "x"))
	f, err := os.Create(temp)
	if err != nil {
		t.Fatal(err)
	}
	file := &File{f, filepath.Join(dir, "x"), temp}
	if err := file.Commit(); err != nil {
		t.Fatal(err)
	}
	file.Discard()
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files are left", len(left))
	}
}

// TestStickyDirectory writes where everyone may: through links and over files of this user, of the
// directory's owner and of another user, who would lead root to a file of root's, or keep what root writes.
func TestStickyDirectory(t *testing.T) {
	require.Root(t)
	const other, owner = 1234, 1235
	top := t.TempDir()
	write := func(f *os.File) error { _, err := f.WriteString("new"); return err }
	for _, c := range []struct {
		name  string
		mode  fs.FileMode
		user  int // of the file or link
		link  bool
		works bool
	}{
		{"own link", fs.ModeSticky | 0o777, 0, true, true},
		{"link of the directory's owner", fs.ModeSticky | 0o777, owner, true, true},
		{"link of another user", fs.ModeSticky | 0o777, other, true, false},
		{"link of another user, not for everyone", fs.ModeSticky | 0o775, other, true, true},
		{"link of another user, not sticky", 0o777, other, true, true},
		{"own file", fs.ModeSticky | 0o777, 0, false, true},
		{"file of another user", fs.ModeSticky | 0o777, other, false, false},
		{"nothing", fs.ModeSticky | 0o777, -1, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp(top, "")
			if err != nil {
				t.Fatal(err)
			}
			name, target := filepath.Join(dir, "app.eif"), filepath.Join(top, "precious")
			errs := []error{os.Chown(dir, owner, owner), os.Chmod(dir, c.mode),
				os.WriteFile(target, []byte("old"), 0o600)}
			switch {
			case c.link:
				errs = append(errs, os.Symlink(target, name), os.Lchown(name, c.user, c.user))
			case c.user >= 0:
				target = name
				errs = append(errs, os.WriteFile(name, []byte("old"), 0o644), os.Lchown(name, c.user, c.user))
			default:
				target = name
			}
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			err = Write(name, write)
			b, _ := os.ReadFile(target)
			if c.works && (err != nil || string(b) != "new") {
				t.Errorf("%v, it holds %q", err, b)
			}
			if !c.works && (err == nil || !strings.Contains(err.Error(), "belongs to user 1234") ||
				string(b) != "old") {
				t.Errorf("%v, it holds %q", err, b)
			}
		})
	}
}
