// Command intruder stands in for a QEMU that its guest has taken over. It tries what such a guest would want
// to do on the host, and prints one line for each: "NAME done" or "NAME denied: ERROR". Its last arguments
// are a directory of the host with a file "secret" and a Unix socket "socket", the address of a TCP and UDP
// server, and the process ID of neb.
//
// If its last argument is "garbage FD" it sends noise to the device there instead, and stays.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 4 && os.Args[3] == "-version" {
		return // neb asks whether there is -sandbox
	}
	var fd int
	if _, err := fmt.Sscanf(os.Args[len(os.Args)-1], "garbage %d", &fd); err == nil {
		os.NewFile(uintptr(fd), "").Write(bytes.Repeat([]byte{0xff}, 64))
		time.Sleep(time.Hour)
	}
	arguments := os.Args[len(os.Args)-3:]
	dir, server := arguments[0], arguments[1]
	neb, err := strconv.Atoi(arguments[2])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	secret, socket := filepath.Join(dir, "secret"), filepath.Join(dir, "socket")
	_, port, _ := net.SplitHostPort(server)
	n, _ := strconv.Atoi(port)
	inet := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: n}
	own := filepath.Join(os.Getenv("TMPDIR"), "own")
	program, _ := os.ReadFile("/proc/self/exe")
	b := make([]byte, 8)
	vec := []unix.Iovec{{Base: &b[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 8}}

	try("own-file", os.WriteFile(own, []byte("x"), 0o700))
	try("read", read(secret))
	try("list", read("/proc"))
	try("write", os.WriteFile(secret, nil, 0o600))
	try("create", os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
	try("remove", os.Remove(secret))
	try("rename", os.Rename(own, filepath.Join(dir, "new")))
	try("link", os.Symlink(secret, filepath.Join(dir, "new")))
	try("mode", unix.Truncate(secret, 0))
	try("tcp", connect(unix.AF_INET, unix.SOCK_STREAM, inet))
	try("udp", connect(unix.AF_INET, unix.SOCK_DGRAM, inet))
	try("unix", connect(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: socket}))
	try("abstract", connect(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@" + socket}))
	try("vsock", connect(unix.AF_VSOCK, unix.SOCK_STREAM, &unix.SockaddrVM{CID: 2, Port: 1}))
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(new([128]byte))), 0)
	try("io_uring", failed(errno))
	try("ptrace", unix.PtraceAttach(neb))
	_, err = unix.ProcessVMReadv(neb, vec, remote, 0)
	try("memory", err)
	try("environment", read(fmt.Sprintf("/proc/%d/environ", neb)))
	try("signal", unix.Kill(neb, 0))
	try("namespace", unix.Unshare(unix.CLONE_NEWUSER))
	try("credentials", inherited())
	try("exec", execute("/bin/true"))
	os.WriteFile(own, program, 0o700)
	try("exec-own", execute(own))
}

func try(name string, err error) {
	if err != nil {
		fmt.Printf("%s denied: %v\n", name, err)
	} else {
		fmt.Printf("%s done\n", name)
	}
}

func failed(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 1)); err != nil {
		_, err = f.Readdirnames(1)
		return err
	}
	return nil
}

func connect(domain, kind int, to unix.Sockaddr) error {
	fd, err := unix.Socket(domain, kind, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

// inherited fails unless a variable of neb's environment can be seen.
func inherited() error {
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "AWS_") {
			return nil
		}
	}
	return fmt.Errorf("not in the environment")
}

// execute starts a program in a child, since QEMU may not replace itself either.
func execute(path string) error {
	p, err := os.StartProcess(path, []string{path, "-sandbox", "on", "-version"}, &os.ProcAttr{})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
