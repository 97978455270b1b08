//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readFile reads a file of at most limit bytes. Errors of system calls are unix.Errno. It allocates little
// more than the file's size, and its callers cut the result without copying it: PID 1 keeps its memory as
// long as the enclave runs.
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

// writeFile writes to a file; with unix.O_CREAT in flags it creates the file with mode 0644.
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

// mkdir creates a directory unless it exists.
func mkdir(name string, mode uint32) error {
	if err := unix.Mkdir(name, mode); err != nil && err != unix.EEXIST {
		return fail("create", name, err)
	}
	return nil
}

// mkdirAll creates a directory and its missing parents.
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

// base returns the name of the module in a file: "tun" for "/neb/lib/tun.ko.zst".
func base(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	name, _, _ = strings.Cut(name, ".ko")
	return name
}
