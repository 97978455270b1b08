package image

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createNameless fails on file systems without O_TMPFILE (NFS, overlayfs before Linux 6.3).
func createNameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, "(nameless)")), nil
}
