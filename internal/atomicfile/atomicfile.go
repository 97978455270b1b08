// Package atomicfile makes files that are there completely or not at all.
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

	"golang.org/x/sys/unix"
)

// File is a file that has no place yet and, where the file system can do that (O_TMPFILE of open(2)), no name either: however the program ends,
// nothing of it stays behind.
type File struct {
	*os.File
	name string // that it will have
	temp string // that it has meanwhile; "" for none
}

// New makes a file that will take the place of name. Permissions and, where that is allowed, owner are those of the file that is there; a new one gets
// what the umask leaves of 0666. Where name is a symbolic link, the file that it leads to is replaced, or made.
//
// Refused are a name of anything but a regular file, and one of an open file (/dev/stdout): whoever opened that would see nothing of the new one.
func New(name string) (*File, error) {
	name, err := Target(name)
	if err != nil {
		return nil, err
	}
	old, err := os.Stat(name)
	switch {
	case err == nil && !old.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file, and would be replaced by one", name)
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if err := f.take(old); err != nil {
			f.Discard()
			return nil, err
		}
	}
	return f, nil
}

// openFiles are the names that /proc has for files that are open.
var openFiles = regexp.MustCompile(`^/proc/[^/]+/(task/[^/]+/)?fd/`)

// Target is the file that is replaced, or made, in the place of name: where symbolic links lead to, without any in the directories above.
func Target(name string) (string, error) {
	const most = 40 // links one after the other, as the kernel has it (path_resolution(7))
	at := name
	for range most {
		dir, err := filepath.EvalSymlinks(filepath.Dir(at))
		if err == nil {
			var info os.FileInfo
			if info, err = os.Stat(dir); err == nil && !info.IsDir() {
				err = unix.ENOTDIR
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
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
			return "", fmt.Errorf("%s is an open file, and would be replaced by another: expected the name of one", name)
		}
		target, err := os.Readlink(at)
		if err != nil {
			return at, nil // no link, or nothing
		}
		if filepath.IsAbs(target) {
			at = target
		} else {
			at = dir + "/" + target // not cleaned: what is before a .. may be a link
		}
	}
	return "", &os.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

func open(name string) (*File, error) {
	dir := filepath.Dir(name)
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666); err == nil {
		f := &File{os.NewFile(uintptr(fd), name), name, ""}
		if _, err := os.Stat(f.proc()); err == nil {
			return f, nil
		}
		f.Close() // without /proc it could not be given its name
	}
	temp := beside(name)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	return &File{f, name, temp}, nil
}

// take gives the file what another one's was.
func (f *File) take(old os.FileInfo) error {
	if st, ok := old.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err := f.Chown(int(st.Uid), int(st.Gid))
		// Not allowed, not known in this user namespace, not known to this file system.
		if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// beside is a name in the same directory that nothing has. It is short, as the file's own may be as long as names can be.
func beside(name string) string {
	return filepath.Join(filepath.Dir(name), ".neb-aside-"+rand.Text()[:16])
}

// proc is the name by which the kernel knows a file that has none.
func (f *File) proc() string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// Commit closes the file and puts it in its place. It does not wait for the disk: call Sync before where a power failure counts.
func (f *File) Commit() error {
	var err error
	if f.temp == "" {
		// A rename alone replaces what is there, and it wants a name.
		temp := beside(f.name)
		if err = unix.Linkat(unix.AT_FDCWD, f.proc(), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err == nil {
			f.temp = temp
		} else {
			err = fmt.Errorf("%s: giving the file a name: %w", f.name, err)
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

// Discard closes the file and forgets it; after Commit it does nothing.
func (f *File) Discard() {
	f.Close()
	if f.temp != "" {
		os.Remove(f.temp)
	}
}

// Write makes a whole file by a function, and puts it in its place when all of it is on disk.
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
		return nil // it may be written to and not be read
	}
	defer d.Close()
	_ = d.Sync() // the rename; not every file system has it
	return nil
}
