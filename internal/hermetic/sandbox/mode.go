package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Mode is how a sandbox is closed off.
type Mode string

const (
	// Namespaces is root making mount, pid, network, host name and IPC namespaces.
	Namespaces Mode = "namespaces"
	// UserNamespaces is an ordinary user (or root without the right to mount) doing the same in a user namespace.
	UserNamespaces Mode = "user namespaces"
	// Chroot is root in a container where neither namespaces nor mounts are allowed. A system call filter keeps the
	// network out and a user id of its own keeps the command from writing to the toolchain, which is hashed before
	// and afterwards; what cannot be enforced is in [Mode.Gaps].
	Chroot Mode = "chroot"
)

// Gaps says what a sandbox in mode m cannot enforce.
func (m Mode) Gaps() []string {
	if m != Chroot {
		return nil
	}
	return []string{
		"the host name and the processes of this machine can be seen by the build",
		"/proc is missing in the build",
		"the toolchain is protected by file permissions and by checking its hashes afterwards, not by a read-only mount",
	}
}

func (m Mode) attributes() *syscall.SysProcAttr {
	// A session of its own: Ctrl-C reaches neb, which then ends the sandbox.
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	switch m {
	case Namespaces:
		a.Cloneflags = namespaces
	case UserNamespaces:
		a.Cloneflags = namespaces | syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	case Chroot:
		a.Pdeathsig = syscall.SIGTERM // so that it can kill the rest
	}
	return a
}

// Choose finds the strongest mode that this machine allows, by trying each one with a command in dir, a directory
// that the caller can write to and removes afterwards.
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
	return "", fmt.Errorf("this machine allows no way to isolate a build (%s); %s", strings.Join(refused, "; "), advice("/proc/sys"))
}

// try runs nothing in mode m, in a root of nothing.
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

// A sysctl that keeps ordinary users from making namespaces, when it has the value that does.
var switches = []struct{ name, bad, advice string }{
	{"kernel/apparmor_restrict_unprivileged_userns", "1", "'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0' allows user namespaces (Ubuntu 24.04 restricts them)"},
	{"kernel/unprivileged_userns_clone", "0", "'sudo sysctl kernel.unprivileged_userns_clone=1' allows user namespaces"},
	{"user/max_user_namespaces", "0", "'sudo sysctl user.max_user_namespaces=10000' allows user namespaces"},
}

// advice says what to enable, from the values below sysctl ("/proc/sys").
func advice(sysctl string) string {
	for _, s := range switches {
		value, err := os.ReadFile(sysctl + "/" + s.name)
		if err == nil && strings.TrimSpace(string(value)) == s.bad {
			return s.advice + ", or run neb as root"
		}
	}
	return "allow user namespaces to this user, or run neb as root (in a container, root with the capabilities SYS_CHROOT, MKNOD, SETUID and SETGID is enough)"
}
