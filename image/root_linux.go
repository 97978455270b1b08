package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// entryOf returns the attributes of a file, without path, size and target, and the number of its names.
func entryOf(path string, info fs.FileInfo) (e *Entry, id fileID, links uint64, err error) {
	st := info.Sys().(*syscall.Stat_t)
	e = &Entry{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, ModTime: st.Mtim.Sec,
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
	}
	if e.UID == uint32(os.Geteuid()) {
		e.UID = 0
	}
	if e.GID == uint32(os.Getegid()) {
		e.GID = 0
	}
	if e.Xattrs, err = xattrs(path); err != nil {
		err = fmt.Errorf("extended attributes: %w", err)
	}
	return e, fileID{st.Dev, st.Ino}, uint64(st.Nlink), err
}

func xattrs(path string) ([]Xattr, error) {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(path, list); err != nil {
		return nil, err
	}
	var xs []Xattr
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		xs = append(xs, Xattr{name, string(value[:n])})
	}
	return xs, nil
}
