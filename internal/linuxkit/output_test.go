package linuxkit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"golang.org/x/sys/unix"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestNothingBeforeTheEnd looks at the directory when all is written and nothing has its name yet: what is
// there would be left by a program that is killed.
func TestNothingBeforeTheEnd(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		require.Lacks(t, "a temporary directory with files without a name ("+err.Error()+")")
	}
	unix.Close(fd)
	names := func() string {
		t.Helper()
		var all []string
		for _, e := range must(os.ReadDir(dir)) {
			all = append(all, e.Name())
		}
		return strings.Join(all, " ")
	}
	write := func(content string) {
		t.Helper()
		before := names()
		text := content
		tree, err := linuxkit.Build(t.Context(), &linuxkit.Config{Files: []linuxkit.File{
			{Path: "f", Contents: &text},
		}}, linuxkit.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		err = linuxkit.Write(t.Context(), tree, linuxkit.Output{
			File: filepath.Join(dir, "x-initrd.img"), Format: must(linuxkit.FindFormat("kernel+initrd-nogz")),
			Approve: func() error {
				if now := names(); now != before {
					t.Errorf("before the end there is %q", now)
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "x-initrd.img")
		if b := must(os.ReadFile(file)); !strings.HasPrefix(string(b), "070701") ||
			!strings.Contains(string(b), content) {
			t.Errorf("%s: got %.100q, want an archive with %q", file, b, content)
		}
		if mode := must(os.Stat(file)).Mode(); mode != 0o644 {
			t.Errorf("%s: mode %v, want 0644", file, mode)
		}
		if now, want := names(), "x-initrd.img"; now != want {
			t.Errorf("there is %q, want %q", now, want)
		}
	}
	write("first")
	write("second, over the first")
}

// TestOutputThroughLinks replaces the file that a symbolic link leads to, and nothing that is no file.
func TestOutputThroughLinks(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "real")
	for _, err := range []error{
		os.WriteFile(target, []byte("old"), 0o600), os.Symlink("real", filepath.Join(dir, "x.tar")),
		os.Mkdir(filepath.Join(dir, "d.tar"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tree := image.NewTree(dir, image.Limits{})
	defer tree.Close()
	out := linuxkit.Output{File: filepath.Join(dir, "x.tar"), Format: must(linuxkit.FindFormat("tar"))}
	if err := linuxkit.Write(t.Context(), tree, out); err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "x.tar")); link != "real" ||
		len(must(os.ReadFile(target))) != 1024 {
		t.Errorf("x.tar leads to %q (%v), and %s has not the archive", link, err, target)
	}
	out.File = filepath.Join(dir, "d.tar")
	if err := linuxkit.Write(t.Context(), tree, out); err == nil ||
		!strings.Contains(err.Error(), "d.tar is not a regular file, and would be replaced by one") {
		t.Errorf("over a directory: %v", err)
	}
}

// TestStopped ends the writing of each format in its middle: where the tree loses an attribute, or between
// large bodies.
func TestStopped(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<30); err != nil { // a hole: it would be copied for a while
		t.Fatal(err)
	}
	tree := image.NewTree(t.TempDir(), image.Limits{})
	defer tree.Close()
	if err := tree.Put(&image.Entry{Path: "a", Mode: 0o100644,
		Xattrs: []image.Xattr{{Name: "user.x", Value: "1"}}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := tree.PutFile(&image.Entry{Path: "b", Mode: 0o100644}, big); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(linuxkit.FormatNames(), ", ") {
		t.Run(name, func(t *testing.T) {
			f := must(linuxkit.FindFormat(name))
			dir := t.TempDir()
			why := errors.New("the test wants no more")
			ctx, stop := context.WithCancelCause(t.Context())
			if f.Name == linuxkit.Tar {
				stop(why) // it loses nothing
			}
			err := linuxkit.Write(ctx, tree, linuxkit.Output{File: filepath.Join(dir, "x"), Format: f,
				Ramdisk: image.Ramdisk{
					Lost: func(string, string) error { stop(why); return nil },
				}})
			if !errors.Is(err, why) {
				t.Errorf("%v, want %v", err, why)
			}
			if left := must(os.ReadDir(dir)); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
