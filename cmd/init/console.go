//go:build linux && (amd64 || arm64)

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// voice is the console as init writes to it. It does not block: the application has the console as well, and
// could stop its output for ever (tcflow(3)), and with it the end of the enclave.
var voice = 2

// consolePatience is how long init waits until the console takes a line.
const consolePatience = 5 * time.Second

// openConsole mounts /dev and opens the console as descriptors 0 to 2. Without a console, as in production,
// it opens /dev/null.
func (e *enclave) openConsole() error {
	// EBUSY: the entry point has mounted it.
	if err := unix.Mount("dev", "/dev", "devtmpfs", devFlags, ""); err != nil && err != unix.EBUSY {
		if err == unix.ENOENT {
			err = mkdir("/dev", 0o755)
			if err == nil {
				err = unix.Mount("dev", "/dev", "devtmpfs", devFlags, "")
			}
		}
		if err != nil {
			return fail("mount", "/dev", err)
		}
	}
	fd, err := open("/dev/console", unix.O_RDWR|unix.O_NOCTTY)
	if e.console = err == nil; !e.console {
		if fd, err = open("/dev/null", unix.O_RDWR); err != nil {
			return fail("open", "/dev/null", err)
		}
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil && fd != std {
			return fail("open", "/dev/console", err)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
	if fd, err = open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK); err == nil {
		voice = fd
	}
	return nil
}
