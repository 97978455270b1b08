package sandbox

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// first is the package with the links /bin, /lib and so on to /usr, through which the others are unpacked.
const first = "base-files"

// links lists symbolic links that Unpack creates if their target exists: those of Debian's maintainer
// scripts (mostly update-alternatives), and those of [first], for roots without that package.
var links = []struct{ path, target string }{
	{"bin", "usr/bin"},
	{"lib", "usr/lib"},
	{"lib64", "usr/lib64"},
	{"sbin", "usr/sbin"},
	{"usr/bin/awk", "gawk"},
	{"usr/bin/cc", "gcc"},
}

// unread lists directories that no build reads. Leaving them out saves hashing them.
var unread = []string{"usr/share/doc/", "usr/share/info/", "usr/share/lintian/", "usr/share/locale/",
	"usr/share/man/"}

// Package is a Debian package to unpack.
type Package struct {
	Name string
	Path string // of the .deb file
}

// Unpack fills the empty directory dir with a root of Debian packages. It runs none of their scripts. Files
// belong to the calling user, and all users can read them.
func Unpack(ctx context.Context, dir string, packages []Package, report progress.Func) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()

	var done atomic.Int64
	unpack := func(p Package) error {
		if err := unpackDeb(ctx, root, p.Path); err != nil {
			return fmt.Errorf("unpack %s (%s): %w", p.Name, p.Path, err)
		}
		report.Send(progress.Event{Stage: "unpack", Done: done.Add(1), Total: int64(len(packages)),
			Unit: "packages"})
		return nil
	}
	var rest []Package
	for _, p := range packages {
		if p.Name != first {
			rest = append(rest, p)
		} else if err := unpack(p); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range rest {
		group.Go(func() error { return unpack(p) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, l := range links {
		if _, err := root.Stat(path.Join(path.Dir(l.path), l.target)); err != nil {
			continue // this root lacks the program
		}
		if err := root.Symlink(l.target, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func unpackDeb(ctx context.Context, root *os.Root, deb string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := debian.Data(stream.Reader(ctx, f))
	if err != nil {
		return err
	}
	return unpackTar(root, data)
}

// unpackTar unpacks a tree without owners and times. Of permissions only that to execute is kept; all users
// can read everything.
func unpackTar(root *os.Root, r io.Reader) error {
	archive := tar.NewReader(r)
	buf := make([]byte, 1<<17)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			_, err := io.CopyBuffer(io.Discard, r, buf) // verifies checksums behind the archive
			return err
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if name == "." || slices.ContainsFunc(unread,
			func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		if err := unpackEntry(root, name, h, archive, buf); err != nil {
			return err
		}
	}
}

func unpackEntry(root *os.Root, name string, h *tar.Header, body io.Reader, buf []byte) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return errors.Join(root.MkdirAll(name, 0o755), root.Chmod(name, 0o755)) // regardless of the umask
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimPrefix(h.Linkname, "./")), name)
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if h.Mode&0o111 != 0 {
			mode = 0o755
		}
		// O_EXCL: with a file in two packages the root would depend on their order.
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, body, buf); err != nil {
			f.Close()
			return err
		}
		if err := f.Chmod(mode); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
	return fmt.Errorf("%s: unsupported type %q: expected a file, directory or link", name, h.Typeflag)
}
