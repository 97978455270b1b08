package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// proc returns the kernel's name for a file without a name.
func proc(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// createUnnamed creates a file without a name in the directory of name. It returns nil if the file system
// does not support that, or /proc is missing, which [link] needs.
func createUnnamed(name string) *os.File {
	fd, err := unix.Open(filepath.Dir(name), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := os.Stat(proc(f)); err != nil {
		f.Close()
		return nil
	}
	return f
}

// link gives a file without a name a name.
func link(f *os.File, name string) error {
	return unix.Linkat(unix.AT_FDCWD, proc(f), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
}

// chown gives f the owner of old, unless that is not permitted, the owner does not exist in this user
// namespace, or the file system has no owners.
func chown(f *os.File, old os.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid() {
		return nil
	}
	err := f.Chown(int(st.Uid), int(st.Gid))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// trust rejects a file or link that another user put into a directory that everyone may write to: a link
// would lead the new content elsewhere, and a file would give away its owner. The kernel does the same when
// it follows or creates (may_follow_link and may_create_in_sticky in fs/namei.c), but not for a link that is
// read, nor for a rename by root.
func trust(name string, info os.FileInfo) error {
	dir, err := os.Stat(filepath.Dir(name))
	if err != nil {
		return err
	}
	const everyone = 0o002
	own, ok1 := info.Sys().(*syscall.Stat_t)
	above, ok2 := dir.Sys().(*syscall.Stat_t)
	if dir.Mode()&os.ModeSticky == 0 || dir.Mode()&everyone == 0 || !ok1 || !ok2 ||
		int(own.Uid) == os.Geteuid() || own.Uid == above.Uid {
		return nil
	}
	return fmt.Errorf("%s belongs to user %d, in a directory that everyone may write to: remove it or use "+
		"another name",
		name, own.Uid)
}
