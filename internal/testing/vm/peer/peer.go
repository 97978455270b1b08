// Package peer is the enclave's end of the tests of vsock: what a guest program calls to serve, and to do
// what the test on the host asks for. It is linked into programs that run inside of enclaves.
package peer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The ports of the enclave on which [Serve] listens.
const (
	Echo     = 5000 // sends back what comes
	Sink     = 5001 // reads to the end, then answers with a [Digest] and a newline
	Source   = 5002 // reads a number n (8 bytes, little-endian) and sends that many bytes of [Noise]
	Deaf     = 5003 // accepts and never reads
	Commands = 5009 // one command a line, one answer a line: "ok", or what went wrong
)

// ParentCID is where the enclave's connections go.
const ParentCID = 3

// Noise is a stream of n bytes that cannot be compressed and is the same every time.
func Noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), n) }

// Digest is the number of bytes in r and their SHA-256.
func Digest(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d %x", n, h.Sum(nil)), err
}

// A Conn is one vsock connection.
type Conn struct {
	*os.File
	fd int
}

// CloseWrite says that nothing more will be sent.
func (c *Conn) CloseWrite() error { return unix.Shutdown(c.fd, unix.SHUT_WR) }

func newConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return &Conn{os.NewFile(uintptr(fd), "vsock"), fd}, nil
}

// Dial connects to a port of cid.
func Dial(cid, port uint32) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %d:%d: %w", cid, port, err)
	}
	return newConn(fd)
}

// Listen serves every connection to a port of the enclave in a goroutine of its own. It returns when it
// listens.
func Listen(port uint32, serve func(*Conn)) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 2048); err != nil {
		return err
	}
	go func() {
		for {
			nfd, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			if c, err := newConn(nfd); err == nil {
				go func() {
					defer c.Close()
					serve(c)
				}()
			}
		}
	}()
	return nil
}

// Console makes the kernel's console the standard output of a PID 1 that nobody gave one.
func Console() {
	unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	if console, err := os.OpenFile("/dev/console", os.O_RDWR, 0); err == nil {
		unix.Dup3(int(console.Fd()), 1, 0)
		unix.Dup3(int(console.Fd()), 2, 0)
	}
}

// Serve listens on all ports above.
func Serve() error {
	services := map[uint32]func(*Conn){
		Echo: func(c *Conn) {
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			c.CloseWrite()
		},
		Sink: func(c *Conn) {
			if d, err := Digest(c); err == nil {
				fmt.Fprintln(c, d)
			}
		},
		Source: func(c *Conn) {
			var n [8]byte
			if _, err := io.ReadFull(c, n[:]); err == nil {
				io.CopyBuffer(struct{ io.Writer }{c}, Noise(int64(binary.LittleEndian.Uint64(n[:]))),
					make([]byte, 256<<10))
			}
		},
		Deaf: func(*Conn) { time.Sleep(time.Hour) },
		Commands: func(c *Conn) {
			for s := bufio.NewScanner(c); s.Scan(); {
				answer := "ok"
				if err := obey(strings.Fields(s.Text())); err != nil {
					answer = err.Error()
				}
				fmt.Fprintln(c, answer)
			}
		},
	}
	for port, serve := range services {
		if err := Listen(port, serve); err != nil {
			return fmt.Errorf("listen on %d: %w", port, err)
		}
	}
	return nil
}

// commands are what a test may ask for. Numbers are what follows the name.
var commands = map[string]func(n []int64) error{
	// echo PORT CONNECTIONS BYTES: that many connections at once, each sends that many bytes and wants them
	// back.
	"echo": func(n []int64) error { return many(n[1], func() error { return echo(uint32(n[0]), n[2]) }) },
	// send PORT BYTES: sends noise and wants its digest back.
	"send": func(n []int64) error { return send(uint32(n[0]), n[1]) },
	// churn PORT TIMES: opens and closes without a word.
	"churn": func(n []int64) error {
		for range n[1] {
			c, err := Dial(ParentCID, uint32(n[0]))
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	},
	// knock CID PORT TIMES: connects where nobody listens, and wants to be refused.
	"knock": func(n []int64) error {
		for range n[2] {
			if _, err := Dial(uint32(n[0]), uint32(n[1])); !errors.Is(err, unix.ECONNRESET) {
				return fmt.Errorf("connected to nobody: %v", err) //nolint:errorlint // may be nil
			}
		}
		return nil
	},
	// halfopen PORT TIMES: opens connections that stay until the end of the enclave.
	"halfopen": func(n []int64) error {
		for range n[1] {
			c, err := Dial(ParentCID, uint32(n[0]))
			if err != nil {
				return err
			}
			kept = append(kept, c)
		}
		return nil
	},
	// stuff PORT BYTES: sends that many bytes to somebody who does not read, and wants not to get rid of
	// them.
	"stuff": func(n []int64) error {
		c, err := Dial(ParentCID, uint32(n[0]))
		if err != nil {
			return err
		}
		kept = append(kept, c)
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if sent, err := io.Copy(struct{ io.Writer }{c}, Noise(n[1])); err == nil {
			return fmt.Errorf("%d bytes went to somebody who does not read", sent)
		}
		return nil
	},
	"reboot": func([]int64) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
	"exit":   func(n []int64) error { os.Exit(int(n[0])); return nil },
}

// kept holds what must stay open.
var kept []*Conn

func obey(words []string) error {
	if len(words) == 0 || commands[words[0]] == nil {
		return fmt.Errorf("unknown command %q", words)
	}
	numbers := make([]int64, 4)
	for i, w := range words[1:] {
		fmt.Sscan(w, &numbers[i])
	}
	return commands[words[0]](numbers)
}

func many(n int64, do func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = do()
		}()
	}
	wg.Wait()
	failed := 0
	var first error
	for _, err := range errs {
		if err != nil {
			failed++
			first = err
		}
	}
	if first != nil {
		return fmt.Errorf("%d of %d connections failed, one with: %w", failed, n, first)
	}
	return nil
}

func echo(port uint32, n int64) error {
	c, err := Dial(ParentCID, port)
	if err != nil {
		return err
	}
	defer c.Close()
	want, _ := Digest(Noise(n))
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{c}, Noise(n))
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	got, err := Digest(c)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("sent %s, got %s back", want, got)
	}
	return nil
}

func send(port uint32, n int64) error {
	c, err := Dial(ParentCID, port)
	if err != nil {
		return err
	}
	defer c.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, h)}, Noise(n),
		make([]byte, 256<<10)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d %x", n, h.Sum(nil)); string(bytes.TrimSpace(got)) != want {
		return fmt.Errorf("sent %s, the parent got %s", want, got)
	}
	return nil
}
