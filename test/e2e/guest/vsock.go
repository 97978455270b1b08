package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
)

func init() {
	acts["babble"], acts["mutter"] = babble, mutter
	acts["vsock"], acts["reboot"], acts["machine"], acts["call"], acts["leave"] = serve, reboot, machine,
		call, leave
}

// babble never stops.
func babble([]string) error {
	for {
		fmt.Println("and what I wanted to say as well is that there is a lot to say")
	}
}

// mutter ends without a newline, with a status.
func mutter(args []string) error {
	status, err := strconv.Atoi(args[0])
	if err == nil {
		fmt.Print("100 %")
		os.Exit(status)
	}
	return err
}

// machine says how many processors there are, and the enclave's vsock address.
func machine([]string) error {
	f, err := os.Open("/dev/vsock")
	if err != nil {
		return err
	}
	defer f.Close()
	cid, err := unix.IoctlGetInt(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		return err
	}
	fmt.Printf("machine: processors %d, CID %d\n", runtime.NumCPU(), cid)
	return nil
}

// call sends a word to a port of a CID, and prints what comes back.
func call(args []string) error {
	var to unix.SockaddrVM
	for i, part := range []*uint32{&to.CID, &to.Port} {
		n, err := strconv.ParseUint(args[i], 10, 32)
		if err != nil {
			return err
		}
		*part = uint32(n)
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &to); err != nil {
		fmt.Printf("call: %v\n", err)
		return nil
	}
	if _, err := unix.Write(fd, []byte("word")); err != nil {
		return err
	}
	b := make([]byte, 16)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err
	}
	fmt.Printf("call: answered %s\n", b[:n])
	return nil
}

// serve does what the test asks for through vsock (package peer), until the test ends the enclave.
func serve([]string) error {
	if err := peer.Serve(); err != nil {
		return err
	}
	fmt.Println("vsock: serving")
	select {}
}

// leave sends that many bytes of noise to each of the parent's ports at once, and leaves the rest to the
// kernel.
func leave(args []string) error {
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	sent := make(chan error)
	for _, arg := range args[1:] {
		port, err := strconv.ParseUint(arg, 10, 32)
		if err != nil {
			return err
		}
		go func() {
			c, err := peer.Dial(peer.ParentCID, uint32(port))
			if err == nil {
				_, err = io.Copy(struct{ io.Writer }{c}, peer.Noise(n))
			}
			sent <- err
		}()
	}
	for range args[1:] {
		err = errors.Join(err, <-sent)
	}
	return err
}

// reboot ends the enclave behind init's back.
func reboot([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }
