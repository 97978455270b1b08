//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// describe reads what to start: /neb/app, or nitro-cli's /cmd and /env.
func (e *enclave) describe() error {
	text, err := readFile(contract.Path, contract.MaxSize)
	if err == unix.ENOENT {
		return e.describeNitroCLI()
	}
	if err != nil {
		return fail("read", contract.Path, err)
	}
	if e.about, err = contract.Decode(text); err != nil {
		return &failure{doing: "read", what: err.Error(), cause: unpacking("")} // the error names the file
	}
	e.structured = true
	if port := e.about.LogPort; port != 0 {
		log = newJournal(port)
	}
	e.env = e.about.Env
	if !e.about.Complete {
		return nil
	}
	text, err = readFile(contract.CompletePath, len(contract.Complete))
	if err == nil && text != contract.Complete {
		err = errors.New("unexpected content")
	}
	if err != nil {
		return fail("check that the ramdisk is complete:", contract.CompletePath, err).because(
			unpacking("the ramdisk was truncated, or memory or inodes ran out while it was unpacked " +
				"(its tmpfs is half of memory, with one inode for two pages)"))
	}
	return nil
}

func (e *enclave) describeNitroCLI() error {
	cmd, err := readFile(contract.CmdPath, contract.MaxSize)
	if err != nil {
		f := fail("read", contract.CmdPath, err)
		return f.because(unpacking(f.cause))
	}
	e.about.Cmd = contract.Lines(cmd)
	if len(e.about.Cmd) == 0 {
		return fail("read", contract.CmdPath, errors.New("the file is empty")).because(
			"the image has neither CMD nor ENTRYPOINT")
	}
	env, err := readFile(contract.EnvPath, 2*contract.MaxSize)
	if err != nil && err != unix.ENOENT {
		return fail("read", contract.EnvPath, err)
	}
	if e.env = contract.Lines(env); len(e.env) == 0 {
		e.env = []string{"PATH=" + contract.ReferencePath}
	}
	unix.Unlink(contract.CmdPath)
	unix.Unlink(contract.EnvPath)
	return nil
}

// unpacking returns the kernel's message about a ramdisk that it could not unpack, or otherwise if there is
// none.
func unpacking(otherwise string) string {
	fd, err := open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return otherwise
	}
	defer unix.Close(fd)
	b := make([]byte, 8192)
	for {
		n, err := unix.Read(fd, b) // one record a read; EPIPE when one was overwritten
		if err == unix.EINTR || err == unix.EPIPE {
			continue
		}
		if err != nil || n <= 0 {
			return otherwise
		}
		_, text, _ := strings.Cut(string(b[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		for _, sign := range []string{"Initramfs unpacking failed", "rootfs image is not initramfs"} {
			if strings.HasPrefix(text, sign) {
				return "the kernel reported: " + text
			}
		}
	}
}
