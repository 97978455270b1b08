//go:build linux

package require

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Sandbox requires a way to isolate a build: root, or user namespaces.
func Sandbox(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if err := clone(syscall.CLONE_NEWNS); err != nil {
		Lacks(t, "user namespaces ("+err.Error()+")")
	}
}

// Namespaces requires permission to create mount, PID and network namespaces, as root or as an ordinary user.
func Namespaces(t testing.TB) {
	t.Helper()
	if err := clone(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET); err != nil {
		Lacks(t, "namespaces ("+err.Error()+")")
	}
}

// clone starts a process in new namespaces; an ordinary user gets a user namespace as well.
func clone(flags uintptr) error {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = attr
	return cmd.Run()
}

// Mount requires permission to mount file systems.
func Mount(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		Lacks(t, "permission to mount ("+err.Error()+")")
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}
