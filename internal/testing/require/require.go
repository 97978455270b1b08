// Package require says what a test needs of the machine: it skips the test, by the name of what is missing, or
// fails it where NEB_REQUIRE says that nothing may be missing (as .ci/run does).
package require

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Lacks ends a test that has found out by itself what is missing: as a skip, or as a failure when NEB_REQUIRE is set to anything but
// the empty string.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("NEB_REQUIRE") != "" {
		t.Fatalf("this machine lacks %s, and NEB_REQUIRE is set", what)
	}
	t.Skipf("this machine lacks %s", what)
}

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "root")
	}
}

// Command needs a program in PATH and returns where it is.
func Command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacks(t, "the command "+name)
	}
	return path
}

// StaticCommand needs a program in PATH that needs no libraries, and returns where it is.
func StaticCommand(t testing.TB, name string) string {
	t.Helper()
	path := Command(t, name)
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			Lacks(t, "a static "+name+" (Debian: "+name+"-static)")
		}
	}
	return path
}

// Docker needs a Docker engine that answers.
func Docker(t testing.TB) {
	t.Helper()
	Command(t, "docker")
	if out, err := exec.Command("docker", "info", "--format", "{{.ServerVersion}}").CombinedOutput(); err != nil {
		Lacks(t, "a running Docker engine ("+string(out)+")")
	}
}

// BuildKit needs a Docker client that can build with BuildKit, and returns where it is: one with the buildx plugin, or one of the
// releases before 23 that have it built in. A machine may have several clients; any will do.
func BuildKit(t testing.TB) string {
	t.Helper()
	Docker(t)
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		client := filepath.Join(dir, "docker")
		if exec.Command(client, "buildx", "version").Run() == nil {
			return client
		}
		version, err := exec.Command(client, "version", "--format", "{{.Client.Version}}").Output()
		var major int
		if err == nil {
			_, err = fmt.Sscanf(string(version), "%d.", &major)
		}
		if err == nil && major < 23 {
			return client
		}
	}
	Lacks(t, "a Docker client with BuildKit (Debian: docker-buildx)")
	return ""
}

// Sandbox needs a way to isolate a build: root, or user namespaces.
func Sandbox(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		Lacks(t, "user namespaces ("+err.Error()+")")
	}
}

// Mount needs the right to mount file systems.
func Mount(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		Lacks(t, "the right to mount ("+err.Error()+")")
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// Time needs a run without -short: the test takes as long as a kernel does to compile. Whoever gives -short wants it skipped, whatever
// NEB_REQUIRE says about the machine.
func Time(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no kernel is compiled again")
	}
}

// Fetch needs what was fetched with the error err: the network, or a store that has it all.
func Fetch(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		Lacks(t, "the locked packages ("+err.Error()+")")
	}
}

// Namespaces needs the right to make namespaces, as root or as an ordinary user: a chroot alone will not do.
func Namespaces(t testing.TB) {
	t.Helper()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = attr
	if err := cmd.Run(); err != nil {
		Lacks(t, "namespaces ("+err.Error()+")")
	}
}
