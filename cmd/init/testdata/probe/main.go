//go:build linux

// Command probe is the application of the tests: it looks at what init has made, and says it on standard
// output, one line for each of its arguments, until one of them ends it. It is static, and needs nothing else
// in its image.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// acts are what it can be asked to do, as "act" or "act=argument".
var acts = map[string]func(arg string) string{
	"env":  func(string) string { return fmt.Sprintf("%q", os.Environ()) },
	"name": func(string) string { return fmt.Sprintf("%q", os.Args[0]) },
	"say":  func(arg string) string { return fmt.Sprintf("%q", arg) },
	"err":  func(arg string) string { fmt.Fprintln(os.Stderr, arg); return "ok" },
	"pid":  func(string) string { return strconv.Itoa(os.Getpid()) },
	"ids": func(string) string { // parent, group and session
		sid, err := unix.Getsid(0)
		return text(fmt.Sprint(os.Getppid(), unix.Getpgrp(), sid), err)
	},
	"fill": fill,
	"id":   id,
	"cwd":  func(string) string { d, err := os.Getwd(); return text(d, err) },
	"stat": stat,
	"read": read,
	"sum": func(name string) string {
		b, err := os.ReadFile(name)
		return text(fmt.Sprintf("%x", sha256.Sum256(b)), err)
	},
	"bytes": func(name string) string {
		b,
			err := os.ReadFile(name)
		return text(strconv.Itoa(len(b)), err)
	},
	"link":     func(name string) string { s, err := os.Readlink(name); return text(s, err) },
	"write":    write,
	"mount":    mounted,
	"lo":       lo,
	"addlo":    func(string) string { return text("added", addLoopback()) },
	"hostname": func(string) string { s, err := os.Hostname(); return text(s, err) },
	"nsm":      func(string) string { return nsm("\x6bDescribeNSM", "module_id") },
	"extend": func(index string) string {
		n, _ := strconv.Atoi(index) // up to 23: one byte in CBOR
		question := "\xa1\x69ExtendPCR\xa2\x65index" + string(rune(n)) + "\x64data\x44test"
		if nsm(question, "ReadOnlyIndex") == "true" {
			return "ReadOnlyIndex"
		}
		return nsm(question, "ExtendPCR")
	},
	"year":    func(string) string { return strconv.Itoa(time.Now().Year()) },
	"rss":     func(string) string { return field("/proc/1/status", "VmHWM:") },
	"zombies": zombies,
	"pty":     pty,
	"attr":    attr,
	"as":      as,
	"leave":   leave,
	"outlive": outlive,
	"kill1":   kill1,
	"sleep": func(arg string) string {
		d,
			err := time.ParseDuration(arg)
		time.Sleep(d)
		return text(arg, err)
	},
	"exit": func(arg string) string { n, _ := strconv.Atoi(arg); os.Exit(n); return "" },
	"die":  die,
}

func main() {
	for _, word := range os.Args[1:] {
		name, arg, _ := strings.Cut(word, "=")
		act, ok := acts[name]
		if !ok {
			fmt.Printf("probe: %s: no such act\n", name)
			os.Exit(99)
		}
		fmt.Printf("probe: %s: %s\n", strings.Trim(strconv.Quote(word), `"`), act(arg))
	}
}

// text is what was found, or the name of the error.
func text(s string, err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case err != nil:
		return err.Error()
	}
	return s
}

func id(string) string {
	groups, err := os.Getgroups()
	return text(fmt.Sprint(os.Getuid(), os.Getgid(), groups), err)
}

func stat(name string) string {
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	return text(fmt.Sprintf("%06o %d:%d %d", st.Mode, st.Uid, st.Gid, st.Size), err)
}

func read(name string) string {
	b, err := os.ReadFile(name)
	return text(fmt.Sprintf("%q", strings.TrimSpace(string(b))), err)
}

// write opens a file for writing, as a program does that logs to /dev/stdout by name.
func write(name string) string {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = f.WriteString("written to " + name + "\n")
		f.Close()
	}
	return text("ok", err)
}

// mounted is the line of /proc/self/mounts for a place: type and options; the last one counts.
func mounted(where string) string {
	b, err := os.ReadFile("/proc/self/mounts")
	found := "nothing"
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == where {
			// these depend on memory
			options := slices.DeleteFunc(strings.Split(f[3], ","), func(o string) bool {
				return strings.HasPrefix(o, "size=") || strings.HasPrefix(o, "nr_inodes=")
			})
			found = f[0] + " " + f[2] + " " + strings.Join(options, ",")
		}
	}
	return text(found, err)
}

func lo(string) string {
	i, err := net.InterfaceByName("lo")
	if err != nil {
		return err.Error()
	}
	addrs, err := i.Addrs()
	return text(fmt.Sprint(i.Flags&net.FlagUp != 0, addrs), err)
}

// addLoopback adds 127.0.0.1/8 to lo as netlink libraries do, with NLM_F_EXCL: EEXIST when it is there.
func addLoopback() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	type request struct {
		unix.NlMsghdr
		unix.IfAddrmsg
		attr unix.RtAttr
		addr [4]byte
	}
	r := request{addr: [4]byte{127, 0, 0, 1}}
	r.NlMsghdr = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(r)), Type: unix.RTM_NEWADDR,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL}
	r.IfAddrmsg = unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 8, Index: 1}
	r.attr = unix.RtAttr{Len: 8, Type: unix.IFA_LOCAL}
	if err := unix.Sendto(fd, unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)), 0,
		&unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	if _, _, err := unix.Recvfrom(fd, b, 0); err != nil {
		return err
	}
	if code := *(*int32)(unsafe.Pointer(&b[16])); code != 0 { // struct nlmsgerr
		return syscall.Errno(-code)
	}
	return nil
}

// nsm sends the Nitro Secure Module a request in CBOR, and reports whether its answer has a key.
func nsm(question, key string) string {
	fd, err := unix.Open("/dev/nsm", unix.O_RDWR, 0)
	if err != nil {
		return text("", err)
	}
	request, answer := []byte(question), make([]byte, 0x3000)
	message := [2]unix.Iovec{{Base: &request[0]}, {Base: &answer[0]}}
	message[0].SetLen(len(request))
	message[1].SetLen(len(answer))
	const rawRequest = 0xc0200a00 // _IOWR(0x0A, 0x0, struct nsm_raw)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rawRequest,
		uintptr(unsafe.Pointer(&message))); errno != 0 {
		return unix.ErrnoName(errno)
	}
	return strconv.FormatBool(bytes.Contains(answer, []byte(key)))
}

// fill writes lines of 100 bytes to standard output, as many as arg says.
func fill(arg string) string {
	n, err := strconv.Atoi(arg)
	for i := range n {
		fmt.Printf("%099d\n", i)
	}
	return text("ok", err)
}

func field(name, key string) string {
	b, err := os.ReadFile(name)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(value)
		}
	}
	return text("no "+key, err)
}

// zombies counts the processes that wait to be reaped, giving init a second to do it.
func zombies(string) string {
	count := 0
	for range 20 {
		count = 0
		all, _ := os.ReadDir("/proc")
		for _, p := range all {
			if _, err := strconv.Atoi(p.Name()); err == nil &&
				strings.HasPrefix(field("/proc/"+p.Name()+"/status", "State:"), "Z") {
				count++
			}
		}
		if count == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return strconv.Itoa(count)
}

// pty opens a pair of terminals.
func pty(string) string {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return text("", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	return text("/dev/pts/"+strconv.Itoa(n), err)
}

func attr(arg string) string {
	name, key, _ := strings.Cut(arg, ",")
	b := make([]byte, 256)
	n, err := unix.Getxattr(name, key, b)
	return text(fmt.Sprintf("%x", b[:max(n, 0)]), err)
}

// as=UID,ACT[=ARG] acts as another user, in another process.
func as(arg string) string {
	user, rest, _ := strings.Cut(arg, ",")
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err.Error()
	}
	cmd := exec.Command("/proc/self/exe", rest)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid),
		Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return text(string(out), err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "probe: "+rest+": ")
}

// within=UID,ACT[=ARG] acts as another user on a thread of this process, which must be root's: a program that
// is set-UID would be root again.
func within(arg string) string {
	user, rest, _ := strings.Cut(arg, ",")
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err.Error()
	}
	said := make(chan string)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this function
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS},
			{unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
			{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				said <- unix.ErrnoName(errno)
				return
			}
		}
		name, arg, _ := strings.Cut(rest, "=")
		said <- acts[name](arg)
	}()
	return <-said
}

// outlive=SIGNAL ignores a signal, sends it to PID 1, and waits until a child has ended.
func outlive(arg string) string {
	signal.Ignore(unix.SignalNum(arg))
	err := unix.Kill(1, unix.SignalNum(arg))
	if err == nil {
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
	return text("a child", err)
}

// leave=stubborn and leave=tame leave a process behind that ignores every signal it can, or says which one it
// got and ends.
func leave(arg string) string {
	cmd := exec.Command("/proc/self/exe", "left="+arg)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	r, err := cmd.StdinPipe() // kept open: nobody writes
	_ = r
	if err == nil {
		err = cmd.Start()
	}
	time.Sleep(300 * time.Millisecond) // until it has said that it listens
	return text("left", err)
}

func init() {
	acts["within"] = within // which names acts itself
	acts["left"] = func(arg string) string {
		c := make(chan os.Signal, 16)
		signal.Notify(c, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1)
		fmt.Printf("probe: left behind, %s\n", arg)
		for s := range c {
			fmt.Printf("probe: %s process got %s\n", arg, unix.SignalName(s.(syscall.Signal)))
			if arg == "tame" {
				os.Exit(0)
			}
		}
		return ""
	}
}

// kill1=SIGNAL sends a signal to PID 1, and tells which one comes back to this process group.
func kill1(arg string) string {
	c := make(chan os.Signal, 16)
	signal.Notify(c)
	if err := unix.Kill(1, unix.SignalNum(arg)); err != nil {
		return text("", err)
	}
	timeout := time.After(2 * time.Second)
	for {
		select {
		case s := <-c:
			if s != unix.SIGURG && s != unix.SIGCHLD {
				return unix.SignalName(s.(syscall.Signal))
			}
		case <-timeout:
			return "none"
		}
	}
}

// die=SIGNAL ends this process by a signal.
func die(arg string) string {
	signal.Reset()
	unix.Kill(os.Getpid(), unix.SignalNum(arg))
	time.Sleep(time.Second)
	return "survived"
}
