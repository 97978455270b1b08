package pack

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
)

// WriteAside makes a file that is there completely or not at all: write fills a file of another name in the same
// directory, which takes the place of path when it is on disk. An existing file stays as it is when anything fails, and
// hands on its permissions otherwise. Where path is a symbolic link, the file that it leads to is replaced.
func WriteAside(path string, write func(*os.File) error) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	old, statErr := os.Stat(path)
	if statErr == nil && !old.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file, and would be replaced by one", path)
	}
	dir, name := filepath.Split(path)
	aside := filepath.Join(dir, "."+name+"."+rand.Text()[:8])
	f, err := os.OpenFile(aside, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(aside)
		}
	}()
	if statErr == nil {
		if err := f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename survive a power cut, where the system knows how.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // Windows cannot open directories for this, and there a rename needs nothing more
	}
	defer d.Close()
	d.Sync() // not every file system has it; the file itself is on disk already
	return nil
}
