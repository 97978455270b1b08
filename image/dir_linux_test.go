package image_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"golang.org/x/sys/unix"
)

func TestAddDir(t *testing.T) {
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
	if unix.Setxattr(filepath.Join(dir, "large"), "user.note", []byte("v"), 0) == nil { // not every file system has them
		attribute = ` user.note="v"`
	}
	link := filepath.Join(t.TempDir(), "link")
	check(os.Symlink(dir, link))
	var tree *image.Tree
	for _, name := range []string{link, dir} {
		tree = newTree(t, image.Limits{})
		check(tree.AddDir(t.Context(), name, "rootfs"))
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
	if err := tree.AddDir(t.Context(), filepath.Join(dir, "none"), ""); err == nil {
		t.Error("no error for a missing directory")
	}
	// Docker's aufs kept the first names of hard links in this directory, and it is part of no tree.
	check(os.Mkdir(filepath.Join(dir, ".wh..wh.plnk"), 0o755))
	check(os.WriteFile(filepath.Join(dir, ".wh..wh.plnk", "1"), []byte("lost?"), 0o644))
	check(os.Link(filepath.Join(dir, ".wh..wh.plnk", "1"), filepath.Join(dir, "z")))
	lost := newTree(t, image.Limits{})
	err = lost.AddDir(t.Context(), dir, "")
	_, there := lost.Lookup("z")
	if err == nil && !there {
		t.Error("a file whose first name is hidden is missing in the tree, without an error")
	}
}
