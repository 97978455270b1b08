package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Mode is the isolation of a sandbox.
type Mode string

const (
	// Namespaces means mount, pid, network, UTS and IPC namespaces, made by root.
	Namespaces Mode = "namespaces"
	// UserNamespaces means the same namespaces inside a user namespace, for ordinary users and for root
	// without the right to mount.
	UserNamespaces Mode = "user namespaces"
	// Chroot is for root in a container that allows neither namespaces nor mounts. A system call filter
	// denies the network. A user ID of its own denies writing to the toolchain, which is also hashed before
	// and after. [Mode.Gaps] lists what is not enforced.
	Chroot Mode = "chroot"
)

// Known reports whether m is one of the modes above.
func (m Mode) Known() bool { return m == Namespaces || m == UserNamespaces || m == Chroot }

// Gaps lists what a sandbox in mode m does not enforce.
func (m Mode) Gaps() []string {
	if m != Chroot {
		return nil
	}
	return []string{
		"the build can see the host name and the processes of this machine",
		"/proc is missing in the build",
		"file permissions and a check of hashes afterwards protect the toolchain, not a read-only mount",
	}
}

func (m Mode) attributes() *syscall.SysProcAttr {
	// A new session: the sandbox must not receive Ctrl-C, because neb ends it.
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
		syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	switch m {
	case Namespaces:
		a.Cloneflags = namespaces
	case UserNamespaces:
		a.Cloneflags = namespaces | syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	case Chroot:
		a.Pdeathsig = syscall.SIGTERM // lets it kill the others
	}
	return a
}

// Choose returns the strongest mode that works on this machine. It tries each mode in dir, a directory that
// the caller can write to and removes afterwards.
func Choose(ctx context.Context, dir string) (Mode, error) {
	modes := []Mode{UserNamespaces}
	if os.Geteuid() == 0 {
		modes = []Mode{Namespaces, UserNamespaces, Chroot}
	}
	var refused []string
	for _, m := range modes {
		err := m.try(ctx, dir)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		refused = append(refused, fmt.Sprintf("%s: %v", m, err))
	}
	return "", fmt.Errorf("this machine allows no way to isolate a build: %s; %s",
		strings.Join(refused, "; "), advice("/proc/sys"))
}

// try probes whether mode m works.
func (m Mode) try(ctx context.Context, dir string) error {
	work, err := os.MkdirTemp(dir, "try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root := work + "/empty"
	if err := errors.Join(os.Mkdir(root, 0o755), prepare(work)); err != nil {
		return err
	}
	c := Command{Root: root, Work: work}
	if m == Chroot {
		return tryChroot(ctx, c)
	}
	return start(ctx, m.spec(c), nil)
}

// switches lists the sysctls that forbid user namespaces if they have the value bad.
var switches = []struct{ name, bad, advice string }{
	{"kernel/apparmor_restrict_unprivileged_userns", "1",
		"'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0' allows user namespaces (Ubuntu 24.04 " +
			"restricts them)"},
	{"kernel/unprivileged_userns_clone", "0",
		"'sudo sysctl kernel.unprivileged_userns_clone=1' allows user namespaces"},
	{"user/max_user_namespaces", "0", "'sudo sysctl user.max_user_namespaces=10000' allows user namespaces"},
}

// advice returns what to enable, from the values below sysctl ("/proc/sys").
func advice(sysctl string) string {
	for _, s := range switches {
		value, err := os.ReadFile(sysctl + "/" + s.name)
		if err == nil && strings.TrimSpace(string(value)) == s.bad {
			return s.advice + ", or run neb as root"
		}
	}
	return "allow user namespaces for this user, or run neb as root " +
		"(in a container, with the capabilities SYS_CHROOT, MKNOD, SETUID and SETGID)"
}
