//go:build linux && (amd64 || arm64)

package main

import (
	"golang.org/x/sys/unix"
)

// failure is a line for the console: what was being done, with what, the error, and its likely cause.
type failure struct {
	doing string
	what  string
	err   error
	cause string
}

// fail makes a failure; the likely cause is looked up in causes. (Inlined into its sixty callers it would be a tenth of the program.)
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

// because replaces the likely cause by one that was found out.
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

// causes are the likely causes of failures, most special first. An empty what or errno stands for any.
var causes = []struct {
	doing string
	what  string
	errno unix.Errno
	cause string
}{
	{"mount", "/dev", unix.ENODEV, "the kernel lacks CONFIG_DEVTMPFS"},
	{"mount", "/neb/lower", unix.EINVAL, "the file is no erofs image, or of a version or compression that the kernel lacks (CONFIG_EROFS_FS_ZIP and its algorithms)"},
	{"mount", "/neb/lower", unix.EOPNOTSUPP, "the kernel lacks the compression of this erofs image (CONFIG_EROFS_FS_ZIP and its algorithms)"},
	{"mount", "/neb/lower", unix.ENODEV, "the kernel lacks CONFIG_EROFS_FS"},
	{"mount", "/rootfs", unix.ENODEV, "the kernel lacks CONFIG_OVERLAY_FS"},
	{"mount", "/rootfs", unix.ENOENT, "the application's ramdisk has no /rootfs: was it unpacked at all?"},
	{"mount", "", unix.ENODEV, "the kernel lacks this file system"},
	{"mount", "", unix.ENOTDIR, "the image has a file where this directory must be"},
	{"mount", "", unix.ELOOP, "the image has a symbolic link to itself where this directory must be"},
	{"mount", "", unix.ENOMEM, "too little memory"},
	{"load module", "", unix.ENOEXEC, "the file is damaged, or no module of this kernel; the kernel's own line above says more"},
	{"load module", "", unix.EOPNOTSUPP, "the module is compressed in a way that the kernel was not configured for (CONFIG_MODULE_DECOMPRESS)"},
	{"load module", "", unix.ENOENT, "the file is missing, or the module needs a symbol of a module that was not loaded before it"},
	{"load module", "", unix.EINVAL, "a parameter on the kernel command line that the module does not take, or a damaged file"},
	{"load module", "", unix.EKEYREJECTED, "the kernel wants signed modules"},
	{"load module", "", unix.EPERM, "module loading is shut off"},
	{"load module", "", unix.ENOSYS, "the kernel lacks CONFIG_MODULES"},
	{"heartbeat", "", unix.EAFNOSUPPORT, "the kernel lacks CONFIG_VSOCKETS"},
	{"heartbeat", "", unix.ENODEV, "there is no vsock device, or the kernel lacks CONFIG_VIRTIO_VSOCKETS and its transport"},
	{"heartbeat", "", unix.ECONNRESET, "nobody listens at port 9000 of the parent (CID 3)"},
	{"heartbeat", "", unix.ECONNREFUSED, "nobody listens at port 9000 of the parent (CID 3)"},
	{"heartbeat", "", unix.ETIMEDOUT, "the parent (CID 3, port 9000) does not answer"},
	{"read", "/cmd", unix.ENOENT, "the application's ramdisk has none, or was not unpacked"},
	{"loop device", "", unix.ENOENT, "the kernel lacks CONFIG_BLK_DEV_LOOP"},
	{"loop device", "", unix.ENXIO, "the kernel lacks CONFIG_BLK_DEV_LOOP"},
	{"join", "", unix.ENOSPC, "too little memory: the tmpfs that holds the ramdisks is half of it"},
	{"create", "", unix.ENOSPC, "too little memory: the root is a tmpfs of half of it, with one inode for two pages"},
	{"exec", "", unix.E2BIG, "arguments and environment may have 2 MiB in all, and 128 KiB each"},
	{"exec", "", unix.ENOMEM, "too little memory"},
	{"exec", "", unix.ELOOP, "a symbolic link leads to itself"},
	{"exec", "", unix.ETXTBSY, "the file is open for writing"},
}
