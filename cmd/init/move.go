//go:build linux && (amd64 || arm64)

package main

import (
	"golang.org/x/sys/unix"
)

// moveTree moves the content of a directory to another one on another file system, which is empty, and gives
// that the same owner, mode and times. It removes each file before it copies the next, because both are in
// memory. linked has the new name of each inode that has several. Extended attributes are not copied.
func moveTree(from, to string, linked map[uint64]string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fail("open", to, err)
	}
	buf := make([]byte, 4096)
	for {
		dir, err := open(from, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return fail("open", to, err)
		}
		n, err := unix.ReadDirent(dir, buf)
		unix.Close(dir)
		if err != nil {
			return fail("read", to, err)
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		if len(names) == 0 {
			break
		}
		for _, name := range names { // they are gone when the directory is read again
			if err := moveEntry(from+"/"+name, to+"/"+name, linked); err != nil {
				return err
			}
		}
	}
	return copyAttributes(to, &st)
}

func moveEntry(from, to string, linked map[uint64]string) error {
	var st unix.Stat_t
	err := unix.Lstat(from, &st)
	if err != nil {
		return fail("open", to, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		if err := mkdir(to, 0o700); err != nil {
			return err
		}
		if err := moveTree(from, to, linked); err != nil {
			return err
		}
		return ifFailed("remove", to, unix.Rmdir(from))
	}
	if first, ok := linked[st.Ino]; ok {
		err = unix.Link(first, to)
	} else {
		switch kind {
		case unix.S_IFREG:
			err = copyFile(from, to)
		case unix.S_IFLNK:
			target := make([]byte, unix.PathMax)
			var n int
			if n, err = unix.Readlink(from, target); err == nil {
				err = unix.Symlink(string(target[:n]), to)
			}
		default:
			err = unix.Mknod(to, st.Mode, int(st.Rdev))
		}
		if err == nil {
			err = copyAttributes(to, &st)
		}
		if st.Nlink > 1 {
			linked[st.Ino] = to
		}
	}
	if err != nil {
		return fail("create", to, err)
	}
	return ifFailed("remove", to, unix.Unlink(from))
}

// ifFailed returns the failure of what ended with err, or nil.
func ifFailed(doing, what string, err error) error {
	if err == nil {
		return nil
	}
	return fail(doing, what, err)
}

func copyFile(from, to string) error {
	in, err := open(from, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	for {
		n, err := unix.Sendfile(out, in, nil, 1<<24)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// copyAttributes gives a file owner, mode and times.
func copyAttributes(name string, st *unix.Stat_t) error {
	if err := unix.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(name, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
