package sandbox

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"golang.org/x/sync/errgroup"

	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

// first is the package that brings the links /bin, /lib, … to /usr: the others are unpacked through them.
const first = "base-files"

// links are made where they lead somewhere: what Debian's maintainer scripts would have made (update-alternatives,
// mostly), and the directories' of [first], for roots of a few programs that need nothing else of it.
var links = []struct{ path, target string }{
	{"bin", "usr/bin"},
	{"lib", "usr/lib"},
	{"lib64", "usr/lib64"},
	{"sbin", "usr/sbin"},
	{"usr/bin/awk", "gawk"},
	{"usr/bin/cc", "gcc"},
}

// unread are directories that no build reads: they are left out, and need not be hashed later.
var unread = []string{"usr/share/doc/", "usr/share/info/", "usr/share/lintian/", "usr/share/locale/", "usr/share/man/"}

// Package is a Debian package to unpack.
type Package struct {
	Name string
	Path string // of the .deb file
}

// Unpack makes dir, which is there and empty, a root out of Debian packages. No script of theirs runs. Files
// belong to the calling user, and everyone can read them.
func Unpack(ctx context.Context, dir string, packages []Package, report progress.Func) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()

	var done atomic.Int64
	unpack := func(p Package) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := unpackDeb(root, p.Path); err != nil {
			return fmt.Errorf("unpacking %s (%s): %w", p.Name, p.Path, err)
		}
		report.Send(progress.Event{Stage: "unpack", Done: done.Add(1), Total: int64(len(packages)), Unit: "packages"})
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
			continue // not a root with that program
		}
		if err := root.Symlink(l.target, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func unpackDeb(root *os.Root, deb string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := DebData(f)
	if err != nil {
		return err
	}
	return unpackTar(root, data)
}

// DebData finds the file tree of a Debian package, and returns it as an uncompressed tar.
func DebData(deb io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(deb, 1<<16)
	const magic = "!<arch>\n"
	got := make([]byte, len(magic))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != magic {
		return nil, fmt.Errorf("not a Debian package: expected %q at its start, found %q", magic, got)
	}
	for {
		// ar(5): name 16, time 12, uid 6, gid 6, mode 8, size 10 in decimal, "`\n"; members start at even offsets.
		var header [60]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return nil, fmt.Errorf("no data.tar in the package: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("damaged header of package member %q", name)
		}
		if compression, ok := strings.CutPrefix(name, "data.tar"); ok {
			return decompress(compression, &member{r: io.LimitedReader{R: r, N: size}})
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("package member %q is cut short: %w", name, err)
		}
	}
}

// member reads an ar member; the file ending before it does is an error.
type member struct{ r io.LimitedReader }

func (m *member) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err == io.EOF && m.r.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func decompress(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case "":
		return r, nil
	case ".xz":
		return xz.NewReader(r, 0)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".gz":
		return gzip.NewReader(r)
	}
	return nil, fmt.Errorf("data.tar%s: unknown compression, expected .xz, .zst or .gz", suffix)
}

// unpackTar puts a tree where it belongs. Owners and times are not kept, permissions only as far as a program is
// a program: whoever the command runs as can read everything.
func unpackTar(root *os.Root, r io.Reader) error {
	archive := tar.NewReader(r)
	buf := make([]byte, 1<<17)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			_, err := io.CopyBuffer(io.Discard, r, buf) // what follows the tar is checked, too
			return err
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if name == "." || slices.ContainsFunc(unread, func(dir string) bool { return strings.HasPrefix(name, dir) }) {
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
		return errors.Join(root.MkdirAll(name, 0o755), root.Chmod(name, 0o755)) // whatever the umask
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimPrefix(h.Linkname, "./")), name)
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if h.Mode&0o111 != 0 {
			mode = 0o755
		}
		// Two packages with one file would make the root depend on their order.
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
	return fmt.Errorf("%s: entry of type %q, expected a file, directory or link", name, h.Typeflag)
}
