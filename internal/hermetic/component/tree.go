package component

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// walkTree calls f for every directory, regular file and symbolic link in dir except .git, in lexical
// order. rel is the path relative to dir.
func walkTree(ctx context.Context, dir string, f func(path, rel string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == ".git" {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if t := info.Mode().Type(); t != 0 && t != fs.ModeDir && t != fs.ModeSymlink {
			return fmt.Errorf("%s: expected a file, directory or symbolic link, found %v", path, info.Mode())
		}
		return f(path, rel, info)
	})
}

// hashTree returns the hash of a directory: names, permission to execute, and content.
func hashTree(ctx context.Context, dir string) (string, error) {
	var list bytes.Buffer
	err := walkTree(ctx, dir, func(path, rel string, info fs.FileInfo) error {
		switch info.Mode().Type() {
		case fs.ModeDir:
			fmt.Fprintf(&list, "dir %q\n", rel)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, "link %q %q\n", rel, target)
		default:
			sum, _, err := stream.SHA256(ctx, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, "file %q %t %s\n", rel, info.Mode()&0o100 != 0, sum)
		}
		return nil
	})
	return hashText(list.String()), err
}

// copyTree copies what [hashTree] hashes.
func copyTree(ctx context.Context, from, to string) error {
	return walkTree(ctx, from, func(path, rel string, info fs.FileInfo) error {
		at := filepath.Join(to, rel)
		switch info.Mode().Type() {
		case fs.ModeDir:
			return os.MkdirAll(at, 0o755)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, at)
		}
		if err := copyInto(path, at); err != nil {
			return err
		}
		if info.Mode()&0o100 != 0 {
			return os.Chmod(at, 0o755)
		}
		return nil
	})
}

// place writes texts as files of a directory of work.
func place(work, dir string, texts map[string]string) error {
	for name, text := range texts {
		if err := writeInto(filepath.Join(work, dir, name), strings.NewReader(text)); err != nil {
			return err
		}
	}
	return nil
}

// writeInto creates a file, its directories, and its content. Its mode is 0644, regardless of the umask.
func writeInto(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

func copyInto(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeInto(to, f)
}
