// Command probe runs in the sandboxes of the tests.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var acts = map[string]func() error{
	"see":    see,
	"exit":   func() error { os.Exit(7); return nil },
	"die":    func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) },
	"linger": linger,
	"wait":   func() error { time.Sleep(time.Minute); return nil },
	"tamper": tamper,
	"escape": escape,
}

func main() {
	if err := acts[os.Args[1]](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// seen is what a command sees of its sandbox.
type seen struct {
	Dir      string
	Env      []string
	Hostname string
	Umask    int
	Root     []string
	Dev      []string
	Wrote    map[string]string // path to error
	Network  map[string]string // what was tried to error
	Parent   int
	Caps     string
}

func see() error {
	var s seen
	s.Dir, _ = os.Getwd()
	s.Env = os.Environ()
	slices.Sort(s.Env)
	s.Hostname, _ = os.Hostname()
	s.Umask = unix.Umask(0)
	s.Parent = os.Getppid()
	caps := [2]unix.CapUserData{}
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		&caps[0]); err != nil {
		return err
	}
	s.Caps = fmt.Sprintf("%08x%08x", caps[1].Permitted, caps[0].Permitted)
	for _, l := range []struct {
		dir string
		to  *[]string
	}{{"/", &s.Root}, {"/dev", &s.Dev}} {
		entries, _ := os.ReadDir(l.dir)
		for _, e := range entries {
			*l.to = append(*l.to, e.Name())
		}
	}
	s.Wrote = map[string]string{}
	for _, path := range []string{"/build/a", "/src/a", "/out/a", "/tmp/a", "/a", "/usr/a", "/usr/bin/probe",
		"/tree/a", "/dev/null"} {
		s.Wrote[path] = word(os.WriteFile(path, []byte("x"), 0o644))
	}
	s.Network = map[string]string{}
	port, _ := strconv.Atoi(os.Getenv("PORT"))
	for name, target := range map[string]struct {
		kind    int
		address unix.SockaddrInet4
	}{
		"tcp": {unix.SOCK_STREAM, unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}},
		"udp": {unix.SOCK_DGRAM, unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 1}}},
	} {
		fd, err := unix.Socket(unix.AF_INET, target.kind, 0)
		if err == nil {
			err = unix.Connect(fd, &target.address)
		}
		s.Network[name] = word(err)
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// word is an error without its path.
func word(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return fmt.Sprint(err)
}

// linger leaves a grandchild behind that has left its session.
func linger() error {
	cmd := exec.Command("/usr/bin/probe", "wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("started")
	return nil
}

// tamper writes to the toolchain.
func tamper() error { return os.WriteFile("/usr/lib/tool", []byte("bad"), 0o644) }

// escape prints each way out of the sandbox that it finds, and takes none.
func escape() error {
	for fd := 3; fd < 100; fd++ {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			fmt.Println("inherited directory", fd)
		}
	}
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
		"/proc/sys/vm/swappiness"} {
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
			fmt.Println("writable", path)
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if unix.Chmod("/dev/"+name, 0o666) == nil { // the mode that it has
			fmt.Println("permissions of", name)
		}
	}
	if now, _, _ := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0); now != 0 {
		fmt.Printf("inherited personality %#x\n", now)
	}
	return nil
}
