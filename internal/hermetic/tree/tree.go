// Package tree lists, copies and removes directories of files, directories and symbolic links. It does not
// know what they are for (see store, sandbox and component). Everything in it stops with the cause of its
// context.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Entry is one file of a tree.
type Entry struct {
	Path   string      `json:"path"`             // below the tree, "." for the tree itself
	Mode   fs.FileMode `json:"mode"`             // type and permissions, as Go counts them
	Size   int64       `json:"size,omitempty"`   // bytes of a regular file
	SHA256 string      `json:"sha256,omitempty"` // of a regular file
	Link   string      `json:"link,omitempty"`   // where a symbolic link points
}

// Walk calls f for everything in dir except the top-level names in skip, in lexical order. The entries have
// no hashes.
func Walk(ctx context.Context, dir string, skip []string, f func(path string, e Entry) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains(skip, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := Entry{Path: rel, Mode: info.Mode()}
		switch e.Mode.Type() {
		case 0:
			e.Size = info.Size()
		case fs.ModeSymlink:
			e.Link, err = os.Readlink(path)
		case fs.ModeDir:
		default:
			err = fmt.Errorf("%s: expected a file, directory or symbolic link, found %v", path, e.Mode)
		}
		if err != nil {
			return err
		}
		return f(path, e)
	})
}

// List returns everything in dir except the top-level names in skip, in lexical order, with hashes.
func List(ctx context.Context, dir string, skip ...string) ([]Entry, error) {
	var entries []Entry
	err := Walk(ctx, dir, skip, func(_ string, e Entry) error {
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range entries {
		e := &entries[i]
		if !e.Mode.IsRegular() {
			continue
		}
		group.Go(func() (err error) {
			e.SHA256, e.Size, err = stream.SHA256(ctx, filepath.Join(dir, e.Path))
			return err
		})
	}
	return entries, group.Wait()
}

// Copy copies everything in from except the top-level names in skip. Permissions become 0755 or, if the owner
// cannot execute a file, 0644, regardless of the umask. With link, files are hard links where that is
// possible.
func Copy(ctx context.Context, from, to string, link bool, skip ...string) error {
	return Walk(ctx, from, skip, func(path string, e Entry) error {
		at := filepath.Join(to, e.Path)
		switch {
		case e.Mode.IsDir():
			return MkdirAll(at)
		case e.Mode.Type() == fs.ModeSymlink:
			return os.Symlink(e.Link, at)
		}
		if link {
			err := os.Link(path, at)
			if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) {
				return err
			}
		}
		mode := fs.FileMode(0o644)
		if e.Mode&0o100 != 0 {
			mode = 0o755
		}
		return CopyFile(ctx, path, at, mode)
	})
}

// MkdirAll creates a directory and its missing parents with mode 0755, regardless of the umask.
func MkdirAll(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err = MkdirAll(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// CopyFile is [WriteFile] with the content of another file.
func CopyFile(ctx context.Context, from, to string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return WriteFile(to, mode, stream.Reader(ctx, f))
}

// WriteFile creates a file with a mode, regardless of the umask, and its missing directories. It fails if the
// file exists.
func WriteFile(path string, mode fs.FileMode, r io.Reader) error {
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// Remove removes a tree, including directories without write permission. A tree that does not exist is no
// error.
func Remove(ctx context.Context, path string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if info, statErr := os.Lstat(path); statErr != nil || !info.IsDir() {
		return err
	}
	_ = os.Chmod(path, 0o700)
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := Remove(ctx, filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
