//go:build linux && (amd64 || arm64)

package main

import (
	"golang.org/x/sys/unix"
)

// A failure is one line for the console: the action, its object, the error, and its likely cause.
type failure struct {
	doing string
	what  string
	err   error
	cause string
}

// fail makes a failure; the likely cause is looked up in causes. (Inlined into its sixty callers it would be
// a tenth of the program.)
//
//go:noinline
func fail(doing, what string, err error) *failure {
	f := &failure{doing: doing, what: what, err: err}
	errno, _ := err.(unix.Errno)
	for _, c := range causes {
		if c.doing == doing && (c.what == "" || c.what == what) && (c.errno == 0 || c.errno == errno) {
			f.cause = c.cause
			break
		}
	}
	return f
}

// because replaces the likely cause by a known one.
func (f *failure) because(cause string) *failure {
	f.cause = cause
	return f
}

func (f *failure) Error() string {
	s := f.doing
	if f.what != "" {
		s += " " + f.what
	}
	if f.err != nil {
		s += ": " + f.err.Error()
	}
	if f.cause != "" {
		s += ": " + f.cause
	}
	return s
}

// causes are the likely causes of failures; the first match counts. An empty what or errno matches any.
var causes = []struct {
	doing string
	what  string
	errno unix.Errno
	cause string
}{
	{"mount", "/dev", unix.ENODEV, "the kernel lacks CONFIG_DEVTMPFS"},
	{"mount", "/neb/lower", unix.EINVAL, "the file is not an erofs image, " +
		"or needs a version or compression that the kernel lacks (CONFIG_EROFS_FS_ZIP and its algorithms)"},
	{"mount", "/neb/lower", unix.EOPNOTSUPP, "the kernel lacks the compression " +
		"of this erofs image (CONFIG_EROFS_FS_ZIP and its algorithms)"},
	{"mount", "/neb/lower", unix.ENODEV, "the kernel lacks CONFIG_EROFS_FS"},
	{"mount", "/rootfs", unix.ENODEV, "the kernel lacks CONFIG_OVERLAY_FS"},
	{"mount", "/rootfs", unix.ENOENT, "the application's ramdisk does not have it, or was not unpacked"},
	{"mount", "", unix.ENODEV, "the kernel lacks this file system"},
	{"mount", "", unix.ENOTDIR, "the image has a file in place of this directory"},
	{"mount", "", unix.ELOOP, "the image has a symbolic link to itself in place of this directory"},
	{"mount", "", unix.ENOMEM, "out of memory"},
	{"load module", "", unix.ENOEXEC, "the file is damaged, " +
		"or not a module of this kernel; see the kernel's message above"},
	{"load module", "", unix.EOPNOTSUPP, "the kernel cannot decompress it " +
		"(CONFIG_MODULE_DECOMPRESS and its algorithm)"},
	{"load module", "", unix.ENOENT, "the file is missing, " +
		"or the module needs a symbol of a module that is not loaded"},
	{"load module", "", unix.EINVAL, "the module rejects a parameter of the kernel command line, " +
		"or the file is damaged"},
	{"load module", "", unix.EKEYREJECTED, "the kernel requires signed modules"},
	{"load module", "", unix.EPERM, "module loading is disabled"},
	{"load module", "", unix.ENOSYS, "the kernel lacks CONFIG_MODULES"},
	{"heartbeat", "", unix.EAFNOSUPPORT, "the kernel lacks CONFIG_VSOCKETS"},
	{"heartbeat", "", unix.ENODEV, "there is no vsock device, " +
		"or the kernel lacks CONFIG_VIRTIO_VSOCKETS and its transport"},
	{"heartbeat", "", unix.ECONNRESET, "nobody listens on port 9000 of the parent (CID 3)"},
	{"heartbeat", "", unix.ECONNREFUSED, "nobody listens on port 9000 of the parent (CID 3)"},
	{"heartbeat", "", unix.ETIMEDOUT, "the parent (CID 3, port 9000) does not answer"},
	{"read", "/cmd", unix.ENOENT, "the application's ramdisk does not have it, or was not unpacked"},
	{"loop device", "", unix.ENOENT, "the kernel lacks CONFIG_BLK_DEV_LOOP"},
	{"loop device", "", unix.ENXIO, "the kernel lacks CONFIG_BLK_DEV_LOOP"},
	{"join", "", unix.ENOSPC, "out of memory: the ramdisks may use half of it"},
	{"create", "", unix.ENOSPC, "out of memory: the root is a tmpfs, " +
		"which may use half of it, with one inode for two pages"},
	{"exec", "", unix.EPERM, "the file's capabilities are more than the application may have (--cap-add)"},
	{"exec", "", unix.E2BIG, "the limit is 2 MiB for arguments and environment, and 128 KiB for each"},
	{"exec", "", unix.ENOMEM, "out of memory"},
	{"exec", "", unix.ELOOP, "a symbolic link points to itself"},
	{"exec", "", unix.ETXTBSY, "the file is open for writing"},
}
