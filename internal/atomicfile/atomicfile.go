// Package atomicfile writes files atomically: a file has its whole new content, or stays as it is.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// File is a file that does not have its name yet. If the system and the file system support it (O_TMPFILE of
// open(2)), it has no name at all, so that nothing is left behind however the program ends.
type File struct {
	*os.File
	name string // the name it will have
	temp string // the name it has meanwhile; "" for none
}

// New creates a file that will replace name. It gets the permissions and, if that is permitted, the owner of
// the file that it replaces; a new file gets 0666 minus the umask. If name is a symbolic link, its target is
// replaced or created.
//
// New rejects names of other than regular files, and of open files (/dev/stdout): the process that opened
// such a file would not see the new one.
func New(name string) (*File, error) {
	name, err := Target(name)
	if err != nil {
		return nil, err
	}
	old, err := os.Stat(name)
	switch {
	case err == nil && !old.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file, and would be replaced by one", name)
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return nil, err
	}
	f, err := create(name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if err := errors.Join(chown(f.File, old), f.Chmod(old.Mode().Perm())); err != nil {
			f.Discard()
			return nil, err
		}
	}
	return f, nil
}

// openFiles matches the names of open files in /proc.
var openFiles = regexp.MustCompile(`^/proc/[^/]+/(task/[^/]+/)?fd/`)

// Target returns the path of the file that is replaced or created in place of name: the target of its
// symbolic links, in a directory whose path has none.
func Target(name string) (string, error) {
	const most = 40 // symbolic links in a row; the kernel's limit, too (path_resolution(7))
	at := name
	for range most {
		dir, err := filepath.EvalSymlinks(filepath.Dir(at))
		if err == nil {
			var info os.FileInfo
			if info, err = os.Stat(dir); err == nil && !info.IsDir() {
				err = syscall.ENOTDIR
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return "", fmt.Errorf("%s: there is no directory %s", name, filepath.Dir(at))
		}
		if err != nil {
			return "", err
		}
		at = filepath.Join(dir, filepath.Base(at))
		full, err := filepath.Abs(at)
		if err != nil {
			return "", err
		}
		if openFiles.MatchString(full) {
			return "", fmt.Errorf("%s is an open file, which cannot be replaced: expected the name of a file",
				name)
		}
		info, err := os.Lstat(at)
		if err != nil {
			return at, nil // it does not exist
		}
		if err := trust(at, info); err != nil {
			return "", err
		}
		target, err := os.Readlink(at)
		if err != nil {
			return at, nil // not a link
		}
		if filepath.IsAbs(target) {
			at = target
		} else {
			at = dir + "/" + target // not cleaned: the element before a .. may be a link
		}
	}
	return "", &os.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
}

// create creates a file without a name, or else with a temporary one, in the directory of name.
func create(name string) (*File, error) {
	if f := createUnnamed(name); f != nil {
		return &File{f, name, ""}, nil
	}
	temp := beside(name)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	return &File{f, name, temp}, nil
}

// beside returns an unused name in the same directory. It is short, since name itself may be as long as names
// can be.
func beside(name string) string {
	return filepath.Join(filepath.Dir(name), ".neb-aside-"+rand.Text()[:16])
}

// Commit closes the file and gives it its name. It does not wait for the disk: call Sync before, to survive a
// power failure.
func (f *File) Commit() error {
	var err error
	if f.temp == "" {
		// Only a rename replaces an existing file, and it needs a name.
		temp := beside(f.name)
		if err = link(f.File, temp); err == nil {
			f.temp = temp
		} else {
			err = fmt.Errorf("%s: link the temporary file: %w", f.name, err)
		}
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.temp, f.name)
	}
	return err
}

// Discard closes and removes the file. After Commit it does nothing.
func (f *File) Discard() {
	f.Close()
	if f.temp != "" {
		os.Remove(f.temp)
	}
}

// WriteBytes is [Write] for content in memory.
func WriteBytes(name string, content []byte) error {
	return Write(name, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// Write writes a file with a function, and gives it its name after all of it is on disk.
func Write(name string, write func(*os.File) error) error {
	f, err := New(name)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := write(f.File); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(f.name))
	if err != nil {
		return nil // a directory may be writable and not readable
	}
	defer d.Close()
	_ = d.Sync() // of the rename; not every file system supports it
	return nil
}
