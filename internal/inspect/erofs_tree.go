package inspect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Tools runs programs of erofs-utils, in the sandbox of `neb build`.
type Tools interface {
	// Work makes a directory for files that the programs read and write.
	Work(context.Context) (string, error)
	// Run runs a program by its path in the sandbox, where work's subdirectories src and out are /src and
	// /out.
	Run(ctx context.Context, work string, args ...string) error
}

// oneAtATime runs one program at a time.
type oneAtATime struct {
	Tools
	mu sync.Mutex
}

func (t *oneAtATime) Work(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Tools.Work(ctx)
}

func (t *oneAtATime) Run(ctx context.Context, work string, args ...string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Tools.Run(ctx, work, args...)
}

// partPrefix is what names of the parts of an erofs root have before their number.
var partPrefix = strings.Trim(contract.RootPart(0), "/0")

// isPart reports whether a name in a ramdisk is a part of an erofs root.
func isPart(name string) bool {
	return strings.HasPrefix(name, partPrefix) && contract.Belongs("/"+name, false)
}

// withErofs joins the parts of a ramdisk's erofs root in src/root.erofs of a directory that work makes, calls
// use with the image and the directory, and removes the directory. It does nothing if the ramdisk has no
// erofs root.
func withErofs(
	w *walker, s eif.Section, work func() (string, error), use func(i *erofsImage, dir string) error,
) (err error) {
	var out *os.File
	var dir string
	next := 0
	defer func() {
		if out != nil {
			out.Close()
			err = errors.Join(err, removeTree(dir))
		}
	}()
	err = w.walk(s, func(h *initramfs.Header, body *initramfs.Reader) error {
		if !isPart(h.Name) {
			return nil
		}
		if want := contract.RootPart(next); "/"+h.Name != want {
			return fmt.Errorf("part %s of the erofs root: expected %s first", h.Name,
				strings.TrimPrefix(want, "/"))
		}
		if next++; next == 1 {
			var err error
			if dir, err = work(); err != nil {
				return err
			}
			for _, sub := range []string{"src", "out"} {
				err = errors.Join(err, os.MkdirAll(filepath.Join(dir, sub), 0o777))
			}
			if err == nil {
				out, err = os.Create(filepath.Join(dir, "src", "root.erofs"))
			}
			if err != nil {
				return errors.Join(err, removeTree(dir))
			}
		}
		_, err := io.Copy(out, body)
		return err
	})
	if err != nil || out == nil {
		return err
	}
	info, err := out.Stat()
	if err != nil {
		return err
	}
	erofs, err := openErofs(out, info.Size())
	if err != nil {
		return err
	}
	return use(erofs, dir)
}

// erofsNames calls use for each node of the erofs root of a ramdisk.
func erofsNames(ctx context.Context, w *walker, s eif.Section, use func(*node) error) error {
	work := func() (string, error) { return os.MkdirTemp("", "neb-erofs-*") }
	return withErofs(w, s, work, func(image *erofsImage, _ string) error {
		return image.walk(func(n *node) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return use(n)
		})
	})
}

// erofsFiles returns the tree in the erofs root of a ramdisk.
func erofsFiles(ctx context.Context, tools Tools, w *walker, s eif.Section) tree {
	return func(use func(*node, digest) error) error {
		return extracted(ctx, tools, w, s, func(n *node, files *os.Root) error {
			sum, err := erofsDigest(files, n)
			if err != nil {
				return err
			}
			return use(n, sum)
		})
	}
}

// extracted calls use for each node of the erofs root of a ramdisk, with the directory into which the tools
// have decompressed its files.
func extracted(
	ctx context.Context, tools Tools, w *walker, s eif.Section, use func(n *node, files *os.Root) error,
) error {
	if tools == nil {
		return errors.New(
			"reading an erofs root needs the sandbox of 'neb build', which this machine cannot run")
	}
	work := func() (string, error) { return tools.Work(ctx) }
	return withErofs(w, s, work, func(erofs *erofsImage, dir string) error {
		size := int64(0) // of all files: they can share their content
		err := erofs.walk(func(n *node) error {
			if n.is(initramfs.TypeFile) {
				size += n.size
			}
			if most := image.DefaultLimits.Bytes; n.size < 0 || size < 0 || size > most {
				return fmt.Errorf("erofs image: the files have more than %d bytes: too many to extract", most)
			}
			return context.Cause(ctx)
		})
		if err != nil {
			return err
		}
		err = tools.Run(ctx, dir,
			"/usr/bin/fsck.erofs", "--extract=/out/root", "--no-preserve", "/src/root.erofs")
		if err != nil {
			return fmt.Errorf("fsck.erofs: %w", err)
		}
		files, err := os.OpenRoot(filepath.Join(dir, "out", "root"))
		if err != nil {
			return err
		}
		defer files.Close()
		return erofs.walk(func(n *node) error {
			if err := errors.Join(readable(files, n), context.Cause(ctx)); err != nil {
				return err
			}
			return use(n, files)
		})
	})
}

// readable makes an extracted directory or file readable.
func readable(files *os.Root, n *node) error {
	switch {
	case n.is(initramfs.TypeDir):
		return files.Chmod(n.path, 0o700)
	case n.is(initramfs.TypeFile):
		return files.Chmod(n.path, 0o600)
	}
	return nil
}

// unpackErofs puts the erofs roots of a file's ramdisks into a tree.
func unpackErofs(ctx context.Context, tools Tools, f *eif.File, t *image.Tree) error {
	unpacker, err := t.Unpacker(nil)
	if err != nil {
		return err
	}
	w := newWalker(f)
	for _, s := range f.All(eif.Ramdisk) {
		err := extracted(ctx, tools, w, s, func(n *node, files *os.Root) error {
			var body io.Reader = strings.NewReader(n.target)
			if n.is(initramfs.TypeFile) {
				in, err := files.Open(n.path)
				if err != nil {
					return err
				}
				defer in.Close()
				body = in
			}
			return unpacker.Add(&initramfs.Header{Name: n.path, Mode: n.mode, UID: n.uid, GID: n.gid,
				Size: n.size, Major: n.major, Minor: n.minor}, body, -1)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// erofsDigest returns the digest of an extracted file.
func erofsDigest(files *os.Root, n *node) (digest, error) {
	if !n.is(initramfs.TypeFile) {
		return digest{}, nil
	}
	in, err := files.Open(n.path)
	if err != nil {
		return digest{}, err
	}
	defer in.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, in)
	return digest(sum.Sum(nil)), err
}

// removeTree removes a tree with directories that may not be writable.
func removeTree(dir string) error {
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
