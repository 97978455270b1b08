package linuxkit

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// aside is a file that has no place yet and, where the file system can do that, no name either: however the program ends,
// nothing of it stays behind.
type aside struct {
	*os.File
	name string // that it will have
	temp string // that it has meanwhile; "" for none
}

func newAside(name string) (*aside, error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real // what a symbolic link leads to is replaced, not the link
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is there already and is no regular file", name)
	}
	if fd, err := unix.Open(filepath.Dir(name), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
		a := &aside{File: os.NewFile(uintptr(fd), name), name: name}
		if _, err := os.Stat(a.proc()); err == nil {
			return a, nil
		}
		a.Close() // without /proc it could not be given its name
	}
	temp := besides(name)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &aside{f, name, temp}, nil
}

// besides is a name in the same directory that nothing has.
func besides(name string) string {
	return filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+rand.Text()[:10]+".tmp")
}

// proc is the name by which the kernel knows a file that has none.
func (a *aside) proc() string { return fmt.Sprintf("/proc/self/fd/%d", a.Fd()) }

func (a *aside) commit() error {
	err := a.Chmod(0o644)
	if err == nil && a.temp == "" {
		// A rename alone replaces what is there, and it wants a name.
		temp := besides(a.name)
		if err = unix.Linkat(unix.AT_FDCWD, a.proc(), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err == nil {
			a.temp = temp
		} else {
			err = fmt.Errorf("%s: giving the file a name: %w", a.name, err)
		}
	}
	if closed := a.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(a.temp, a.name)
	}
	return err
}

func (a *aside) discard() {
	a.Close()
	if a.temp != "" {
		os.Remove(a.temp)
	}
}
