//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries are what an application might do to the rest of the enclave, for "try=NAME". The answer is the error,
// or "ok".
var tries = map[string]func() error{
	"ptrace init":    func() error { return unix.PtraceAttach(1) },
	"seize init":     func() error { return unix.PtraceSeize(1) },
	"init's memory":  func() error { return opens("/proc/1/mem", unix.O_RDWR) },
	"init's files":   func() error { return opens("/proc/1/fd/0", unix.O_RDONLY) },
	"init's root":    func() error { return opens("/proc/1/root/neb", unix.O_RDONLY) },
	"kexec":          func() error { return system(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
	"load a module":  func() error { return system(unix.SYS_FINIT_MODULE, 0, zeros, 0) },
	"reboot":         func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
	"mount":          func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
	"remount sysfs":  func() error { return unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"user namespace": func() error { return unshare(unix.CLONE_NEWUSER) },
	"io_uring":       func() error { return system(unix.SYS_IO_URING_SETUP, 1, zeros) },
	"bpf":            func() error { return system(unix.SYS_BPF, 5, zeros, 48) },
	"perf": func() error {
		_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Size: 64}, 0, -1, -1, 0)
		return err
	},
	"set the clock": func() error { var t unix.Timespec; return unix.ClockSettime(unix.CLOCK_REALTIME, &t) },
	"host name":     func() error { return unix.Sethostname([]byte("mine")) },
	"kernel's log": func() error {
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64))
		return err
	},
	"priority":       func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) },
	"sysctl":         func() error { return writes("/proc/sys/kernel/io_uring_disabled", "0") },
	"sysfs":          func() error { return writes("/sys/class/misc/hw_random/rng_current", "none") },
	"cgroup":         func() error { return unix.Mkdir("/sys/fs/cgroup/mine", 0o755) },
	"raw socket":     func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"ping socket":    func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) },
	"chroot":         func() error { return unix.Chroot("/") },
	"memory device":  func() error { return device(1, 1) },
	"port device":    func() error { return device(1, 4) },
	"null device":    func() error { return device(1, 3) },
	"port 80":        listens,
	"program in tmp": func() error { return runs("/tmp") },
	"program in run": func() error { return runs("/run") },
	"stop init":      stops,
	"stop console": func() error {
		return unix.IoctlSetInt(1, unix.TCXONC, unix.TCOOFF)
	},
}

var (
	zero  [128]byte
	zeros = uintptr(unsafe.Pointer(&zero))
)

func init() {
	acts["try"] = func(name string) string { return text("ok", tries[name]()) }
	acts["status"] = func(key string) string { return field("/proc/thread-self/status", key+":") }
}

func system(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func opens(name string, flags int) error {
	fd, err := unix.Open(name, flags, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func writes(name, content string) error { return os.WriteFile(name, []byte(content), 0) }

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// unshare tries it in a child: the program has threads, which CLONE_NEWUSER does not allow.
func unshare(flags uintptr) error {
	err := (&exec.Cmd{Path: "/proc/self/exe", Args: []string{"probe"},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags}}).Run()
	return err
}

// device makes a device file where the file system allows one, and opens it.
func device(major, minor uint32) error {
	name := "/device"
	defer os.Remove(name)
	if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return opens(name, unix.O_RDWR)
}

func listens() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: 80})
		unix.Close(fd)
	}
	return err
}

// runs runs a program in a directory.
func runs(dir string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "mine")
	if err := os.WriteFile(name, self, 0o755); err != nil {
		return err
	}
	return exec.Command(name).Run()
}

// stops sends init all signals that might stop or kill it and that it does not forward, and looks whether it
// still reaps.
func stops() error {
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGKILL, unix.SIGABRT, unix.SIGSEGV,
			unix.SIGILL, unix.SIGSYS, unix.SIGXCPU:
		default:
			if s < 32 {
				continue
			}
		}
		if err := unix.Kill(1, s); err != nil {
			return err
		}
	}
	time.Sleep(50 * time.Millisecond)
	if state := field("/proc/1/status", "State:"); strings.HasPrefix(state, "T") {
		return syscall.ESRCH
	}
	return nil
}
