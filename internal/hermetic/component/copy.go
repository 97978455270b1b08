package component

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// copyTree copies what [hashTree] hashes.
func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if rel == ".git" {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		at := filepath.Join(to, rel)
		switch e.Type() {
		case fs.ModeDir:
			return os.MkdirAll(at, 0o755)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, at)
		case 0:
			info, err := e.Info()
			if err != nil {
				return err
			}
			if err := copyInto(path, at); err != nil {
				return err
			}
			if info.Mode()&0o100 != 0 {
				return os.Chmod(at, 0o755)
			}
			return nil
		}
		return fmt.Errorf("%s is neither a file, a directory nor a link", path)
	})
}
