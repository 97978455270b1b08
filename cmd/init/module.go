//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const moduleCompressed = 4 // MODULE_INIT_COMPRESSED_FILE of linux/module.h

// loadModules loads the modules that /neb/modules lists and then disables loading. If there is no list, it
// loads /nsm.ko and what nitro-cli's list names.
func (e *enclave) loadModules() error {
	var list contract.Modules
	text, err := readFile(contract.ModulesPath, contract.MaxSize)
	listed := err == nil
	switch {
	case listed:
		if list, err = contract.DecodeModules(text); err != nil {
			return &failure{doing: "read", what: err.Error()}
		}
	case err != unix.ENOENT:
		return fail("read", contract.ModulesPath, err)
	default:
		if list.Paths, err = loadOrder(); err != nil {
			return err
		}
	}
	named := false
	for _, path := range list.Paths {
		named = named || path == contract.NSMPath
	}
	if !named {
		if err := e.loadModule(contract.NSMPath, true); err != nil {
			return err
		}
	}
	for _, path := range list.Paths {
		if err := e.loadModule(path, false); err != nil {
			return err
		}
	}
	if !listed || list.Open {
		return nil
	}
	if err := writeFile("/proc/sys/kernel/modules_disabled", "1", 0); err != nil {
		return fail("disable module loading in", "/proc/sys/kernel/modules_disabled", err)
	}
	return nil
}

// loadModule loads a module and removes its file, which is not needed again.
func (e *enclave) loadModule(path string, optional bool) error {
	fd, err := open(path, unix.O_RDONLY)
	if err == unix.ENOENT && optional {
		return nil
	}
	if err != nil {
		return fail("open module", path, err)
	}
	defer unix.Close(fd)
	var magic [4]byte
	unix.Pread(fd, magic[:], 0)
	flags := 0
	if string(magic[:]) != "\x7fELF" && compressed(magic[:]) {
		flags = moduleCompressed
	}
	err = unix.FinitModule(fd, parameters(base(path), e.options), flags)
	switch {
	case err == unix.EEXIST: // built into the kernel, or loaded
		warn(fail("load module", path, err))
	case err != nil:
		f := fail("load module", path, err)
		if err == unix.ENOEXEC && flags == 0 {
			if cause := misfit(fd); cause != "" {
				f.because(cause)
			}
		}
		return f
	}
	unix.Unlink(path)
	return nil
}

// compressed reports whether a file begins like gzip, xz or zstd, which kernels can decompress.
func compressed(magic []byte) bool {
	for _, m := range []string{"\x1f\x8b", "\xfd7zX", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(magic, []byte(m)) {
			return true
		}
	}
	return false
}

// misfit reports a module that was built for another kernel, as its "vermagic=6.12.117 SMP …" shows. It
// returns "" otherwise.
func misfit(fd int) string {
	const key = "vermagic="
	b := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := unix.Pread(fd, b, at)
		if err != nil || n <= len(key) {
			return ""
		}
		i := bytes.Index(b[:n], []byte(key))
		if i < 0 {
			at += int64(n - len(key))
			continue
		}
		if i > 0 && n == len(b) && n-i < 256 { // may be truncated: read again from here
			at += int64(i)
			continue
		}
		built, _, _ := bytes.Cut(b[i+len(key):n], []byte{0})
		release, _, _ := strings.Cut(string(built), " ")
		var u unix.Utsname
		if unix.Uname(&u) != nil || release == unix.ByteSliceToString(u.Release[:]) {
			return ""
		}
		return "it was built for kernel " + release + ", the running kernel is " +
			unix.ByteSliceToString(u.Release[:])
	}
}
