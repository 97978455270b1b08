// Command guest is what bench/net boots: it transfers bytes in several ways and prints how fast.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const socatPort = "9000"

func main() {
	uptime, _ := os.ReadFile("/proc/uptime")
	host := "192.168.127.254:" + os.Args[1]
	for _, line := range os.Args[2:] {
		word, rest, _ := strings.Cut(line, " ")
		var err error
		switch word {
		case "uptime":
			fmt.Println("result uptime", strings.Fields(string(uptime))[0])
		case "open":
			err = open(host, rest)
		case "carrier":
			err = carrier()
		default:
			err = transfer(word, rest, host)
		}
		if err != nil {
			fmt.Printf("%s: %v\n", line, err)
			os.Exit(1)
		}
	}
}

// dial connects by a socket that blocks, so that the ways differ in nothing else.
func dial(way, host string) (io.ReadWriteCloser, error) {
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	switch way {
	case "vsock":
		family, to = unix.AF_VSOCK, &unix.SockaddrVM{CID: 3, Port: 7000}
	case "socat":
		socat := exec.Command("/socat", "TCP-LISTEN:"+socatPort+",fork,reuseaddr", "VSOCK-CONNECT:3:7000")
		socat.Stderr = os.Stderr
		if err := socat.Start(); err != nil {
			return nil, err
		}
		host = "127.0.0.1:" + socatPort
	}
	if to == nil {
		a, err := netip.ParseAddrPort(host)
		if err != nil {
			return nil, err
		}
		to = &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, to)
		}
		if err == nil {
			return os.NewFile(uintptr(fd), way), nil
		}
		unix.Close(fd)
		if way != "socat" || tries == 100 { // which may not listen yet
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func ask(c io.Writer, direction byte, n int64) error {
	_, err := c.Write(binary.LittleEndian.AppendUint64([]byte{direction}, uint64(n)))
	return err
}

func transfer(way, what, host string) error {
	var direction string
	var mib int64
	fmt.Sscan(what, &direction, &mib)
	n := mib << 20
	c, err := dial(way, host)
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	if err := ask(c, direction[0], n); err != nil {
		return err
	}
	b := make([]byte, 256<<10)
	if direction == "up" {
		for left := n; left > 0; left -= int64(len(b)) {
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, b[:1]); err != nil {
			return err
		}
	} else {
		for left := n; left > 0; {
			got, err := c.Read(b)
			if err != nil {
				return err
			}
			left -= int64(got)
		}
	}
	fmt.Printf("result %s %s %.1f\n", way, direction, float64(n)/1e6/time.Since(start).Seconds())
	return nil
}

// open holds connections open through which some bytes went.
func open(host, count string) error {
	var n int
	fmt.Sscan(count, &n)
	b := make([]byte, 1000)
	for range n {
		c, err := net.Dial("tcp", host)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := ask(c, 'd', int64(len(b))); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
	fmt.Println("result open", n)
	time.Sleep(3 * time.Second)
	return nil
}

func carrier() error {
	for pid := 2; pid < 200; pid++ {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.HasPrefix(string(name), "neb-net\x00") {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				fmt.Println("result carrier", strings.Fields(value)[0])
			}
		}
		return err
	}
	return fmt.Errorf("no process neb-net")
}
