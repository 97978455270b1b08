//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readFile reads a file of at most limit bytes. Errors of the system are an unix.Errno. Little is allocated beyond the file's size, and
// what it returns is cut into pieces without another copy: PID 1 keeps its memory for the life of the enclave.
func readFile(name string, limit int) (string, error) {
	fd, err := open(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "", unix.EISDIR
	}
	var all strings.Builder
	all.Grow(int(min(st.Size, int64(limit)))) // files of /proc have no size
	piece := make([]byte, min(max(st.Size, 4096), 64<<10))
	for {
		n, err := unix.Read(fd, piece)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			return all.String(), nil
		}
		if all.Len()+n > limit {
			return "", errors.New("more than " + strconv.Itoa(limit) + " bytes")
		}
		all.Write(piece[:n])
	}
}

//go:noinline
func open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// writeFile writes into a file; with unix.O_CREAT in flags it may be new, with mode 0644.
func writeFile(name, content string, flags int) error {
	fd, err := open(name, unix.O_WRONLY|flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for content != "" {
		n, err := unix.Write(fd, []byte(content))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// mkdir makes a directory that may be there already.
func mkdir(name string, mode uint32) error {
	if err := unix.Mkdir(name, mode); err != nil && err != unix.EEXIST {
		return fail("create", name, err)
	}
	return nil
}

// mkdirAll makes a directory and what is missing above it.
func mkdirAll(name string, mode uint32) error {
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if err := mkdir(name[:i], mode); err != nil {
			return err
		}
	}
	return nil
}

func exists(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil
}

// base is the name of a module in a file name: "/neb/lib/tun.ko.zst" is "tun".
func base(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	name, _, _ = strings.Cut(name, ".ko")
	return name
}
