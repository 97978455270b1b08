package contract

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Values of [Description.Allow].
const (
	AllowUserns  = "userns"   // user namespaces
	AllowIOUring = "io_uring" // io_uring_setup(2)
)

// AllCapabilities is the value of [Description.CapAdd] and [Description.CapDrop] that means each capability.
const AllCapabilities = "ALL"

// capabilities are those of Linux by number (include/uapi/linux/capability.h), without "CAP_".
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// dockerCapabilities are those of a container by default (DefaultCapabilities in moby/daemon/pkg/oci/caps):
// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT,
// MKNOD, AUDIT_WRITE and SETFCAP.
const dockerCapabilities = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<13 | 1<<18 |
	1<<27 | 1<<29 | 1<<31

// Numbers of the capabilities on which init's behavior depends.
const (
	CapSysAdmin = 21
	CapSysTime  = 25
)

// Capabilities returns the bounding set of the application: bit n is capability n. CapAdd and CapDrop change
// Docker's default set as docker run's options of these names do.
func (d *Description) Capabilities() uint64 {
	set := uint64(dockerCapabilities)
	switch {
	case slices.Contains(d.CapAdd, AllCapabilities):
		set = ^uint64(0)
	case slices.Contains(d.CapDrop, AllCapabilities):
		set = 0
	}
	for _, name := range d.CapDrop {
		if n := capability(name); n >= 0 {
			set &^= 1 << n
		}
	}
	for _, name := range d.CapAdd {
		if n := capability(name); n >= 0 {
			set |= 1 << n
		}
	}
	return set
}

// capability returns the number of a capability: "NET_ADMIN", "CAP_NET_ADMIN", in upper or lower case; -1 for
// other names.
func capability(name string) int {
	return slices.Index(capabilities[:], strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
}

func checkCapability(name string) error {
	if name != AllCapabilities && capability(name) < 0 {
		return errors.New(strconv.Quote(name) +
			" is not a capability of Linux: expected a name like NET_ADMIN, or " +
			AllCapabilities)
	}
	return nil
}

func checkAllow(what string) error {
	if what != AllowUserns && what != AllowIOUring {
		return errors.New(strconv.Quote(what) + ": expected " + AllowUserns + " or " + AllowIOUring)
	}
	return nil
}
