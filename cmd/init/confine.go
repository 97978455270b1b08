//go:build linux && (amd64 || arm64)

package main

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// sysctls are set in structured mode, unless the kernel command line sets them (sysctl.NAME=VALUE). A kernel
// without one of them lacks what it limits.
var sysctls = []struct {
	name, value string
	unless      string // a value of Allow
}{
	{"fs.protected_fifos", "2", ""},
	{"fs.protected_regular", "2", ""},
	{"fs.protected_hardlinks", "1", ""},
	{"fs.protected_symlinks", "1", ""},
	{"kernel.kptr_restrict", "2", ""},
	{"kernel.dmesg_restrict", "1", ""},
	{"kernel.unprivileged_bpf_disabled", "2", ""},
	{"kernel.io_uring_disabled", "2", contract.AllowIOUring},
	{"user.max_user_namespaces", "0", contract.AllowUserns},
	// As in Docker's containers.
	{"net.ipv4.ip_unprivileged_port_start", "0", ""},
	{"net.ipv4.ping_group_range", "0 2147483647", ""},
}

// confine takes from the application what Docker takes from a container by default, and what few need.
func (e *enclave) confine() error {
	for _, s := range sysctls {
		if e.commandLineHas("sysctl."+s.name) || s.unless != "" && slices.Contains(e.about.Allow, s.unless) {
			continue
		}
		path := "/proc/sys/" + strings.ReplaceAll(s.name, ".", "/")
		if err := writeFile(path, s.value, 0); err != nil && err != unix.ENOENT {
			return fail("write "+s.value+" to", path, err)
		}
	}
	if e.about.Pid1 {
		// The end of PID 1 is a panic of the kernel, after which the command line's panic=30 would keep the
		// machine for 30 seconds. A negative time is none.
		if err := writeFile("/proc/sys/kernel/panic", "-1", 0); err != nil {
			return fail("write -1 to", "/proc/sys/kernel/panic", err)
		}
	}
	if e.has(contract.CapSysAdmin) {
		return nil // it could mount them again
	}
	// User 0 without capabilities may still write to these: they belong to it. Through them it could undo the
	// above, and freeze init in a cgroup of its own.
	for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys"} {
		if err := readOnly(path); err != nil && err != unix.ENOENT {
			return fail("make read-only", path, err)
		}
	}
	return nil
}

// readOnly makes a directory and the mounts below it read-only.
func readOnly(path string) error {
	if strings.HasPrefix(path, "/proc/") {
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE,
		&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// has reports whether the application may have a capability.
func (e *enclave) has(capability int) bool { return e.about.Capabilities()>>capability&1 != 0 }

// commandLineHas reports whether the kernel command line has an option, which may be written with slashes for
// dots.
func (e *enclave) commandLineHas(key string) bool {
	for _, o := range e.options {
		if strings.ReplaceAll(o.key, "/", ".") == key {
			return true
		}
	}
	return false
}

// boundThread limits what programs that this thread starts can get to the description's capabilities. PID 1
// keeps its own: the bounding set counts at execve(2).
func (e *enclave) boundThread() error {
	if !e.structured {
		return nil
	}
	set := e.about.Capabilities()
	for n := range 64 {
		if set>>n&1 != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err == unix.EINVAL {
			break // the kernel has no more of them
		} else if err != nil {
			return fail("drop capabilities", "", err)
		}
	}
	if !e.about.NoNewPrivileges {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fail("set no_new_privs", "", err)
	}
	return nil
}
