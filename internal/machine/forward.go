package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// An Endpoint is an address of this host to which a vsock port is connected.
type Endpoint struct {
	network string // "unix", "tcp" or "exec"
	address string
}

// ParseEndpoint reads unix:PATH, tcp:HOST:PORT or exec:COMMAND.
func ParseEndpoint(s string) (Endpoint, error) {
	network, address, _ := strings.Cut(s, ":")
	e := Endpoint{network, address}
	switch network {
	case "tcp":
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" {
			return e, fmt.Errorf("%q: expected tcp:HOST:PORT", s)
		}
	case "unix", "exec":
		if address == "" {
			return e, fmt.Errorf("%q: expected unix:PATH or exec:COMMAND", s)
		}
	default:
		return e, fmt.Errorf("%q: expected unix:PATH, tcp:HOST:PORT or exec:COMMAND", s)
	}
	return e, nil
}

func (e Endpoint) String() string { return e.network + ":" + e.address }

// Local reports whether only this machine can reach the endpoint.
func (e Endpoint) Local() bool {
	if e.network != "tcp" {
		return true
	}
	host, _, _ := net.SplitHostPort(e.address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ErrCommand is the error of listening on a command.
var ErrCommand = errors.New("only connections of the enclave can start a command")

// Listen listens for connections of the host. It fails for exec, see [ErrCommand]. It replaces a socket file
// that an earlier process left behind.
func (e Endpoint) Listen() (net.Listener, error) {
	if e.network == "exec" {
		return nil, fmt.Errorf("%v: %w", e, ErrCommand)
	}
	l, err := net.Listen(e.network, e.address)
	if e.network == "unix" && errors.Is(err, syscall.EADDRINUSE) {
		// A socket refuses connections when no process listens on it.
		other, busy := net.Dial("unix", e.address)
		if busy == nil {
			other.Close()
		}
		if errors.Is(busy, syscall.ECONNREFUSED) && isSocket(e.address) && os.Remove(e.address) == nil {
			return net.Listen(e.network, e.address)
		}
	}
	return l, err
}

func isSocket(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().Type() == fs.ModeSocket
}

// Handler connects each connection of the enclave to the endpoint. If that fails, it refuses the connection
// and calls report. stderr receives the standard error of commands.
func (e Endpoint) Handler(report func(error), stderr io.Writer) vsock.Handler {
	return func(ctx context.Context, c *vsock.Conn) {
		host, err := e.open(ctx, c.Context(), stderr)
		if err != nil {
			report(fmt.Errorf("port %d of the parent: %w", c.LocalAddr().(vsock.Addr).Port, err))
			return
		}
		defer host.Close()
		if c.Accept() == nil {
			join(ctx, c, host)
		}
	}
}

// A stream is a connection of the host.
type stream interface {
	net.Conn
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

// open connects until connecting ends, or starts a command, which is killed when ctx ends.
func (e Endpoint) open(ctx, connecting context.Context, stderr io.Writer) (stream, error) {
	if e.network == "exec" {
		return e.start(ctx, stderr)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(connecting, e.network, e.address)
	if err != nil {
		return nil, err
	}
	return conn.(stream), nil
}

// A process is a connection to a command's standard input and output.
type process struct {
	*net.UnixConn
	cmd  *exec.Cmd
	kill func()
	once sync.Once
}

// start runs a shell command in its own process group.
func (e Endpoint) start(ctx context.Context, stderr io.Writer) (stream, error) {
	conn, theirs, err := vhost.SocketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ctx, kill := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", e.address)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// Do not wait for a background process that inherited standard error.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		kill()
		conn.Close()
		return nil, err
	}
	return &process{UnixConn: conn, cmd: cmd, kill: kill}, nil
}

// Close closes the connection and waits for the command, which may finish what it has read before it is
// killed. Processes that it left in the background are killed.
func (p *process) Close() error {
	err := p.UnixConn.Close()
	p.once.Do(func() {
		late := time.AfterFunc(lingering, p.kill)
		p.cmd.Wait()
		late.Stop()
		p.kill()
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	})
	return err
}

// lingering limits how long the host may read the rest after the enclave has closed a connection, and how
// long a command may run.
const lingering = 30 * time.Second

// join copies in both directions, until both have ended. The end of one direction does not end the other. If
// a stream breaks, the other side gets a reset, so that it does not take a part for the whole; on the host's
// side only TCP has one. The end of ctx breaks both.
func join(ctx context.Context, c *vsock.Conn, host stream) {
	cut := context.AfterFunc(ctx, func() { breakOff(host) })
	defer cut()
	stop := context.AfterFunc(c.Context(), func() {
		host.SetReadDeadline(time.Now())
		host.SetWriteDeadline(time.Now().Add(lingering))
	})
	defer stop()
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		switch _, err := c.ReadFrom(host); {
		case err == nil:
			c.CloseWrite()
		case errors.Is(err, syscall.EPIPE), c.Context().Err() != nil:
			// The enclave reads no more; the host may still read what it has sent.
		default:
			c.Abort()
		}
	}()
	go func() {
		defer both.Done()
		_, tcp := host.(*net.TCPConn)
		switch _, err := c.WriteTo(host); {
		case err == nil:
			host.CloseWrite()
		case !tcp && errors.Is(err, syscall.EPIPE) && c.Context().Err() == nil:
			// The host reads no more; the enclave may still read what it has sent.
			c.CloseRead()
		default:
			// A TCP host has reset, or the enclave has: either way there is nothing left to say in the other
			// direction.
			c.Abort()
			breakOff(host)
		}
	}()
	both.Wait()
	c.Close()
}

// breakOff closes a connection of the host, with a reset if it has one.
func breakOff(host stream) {
	if tcp, ok := host.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	host.Close()
}

// Forward is [Forward] for the machine's device.
func (m *Machine) Forward(l net.Listener, port uint32, report func(error)) {
	Forward(m.device, l, port, report)
}

// Forward connects each connection that l accepts to a port of the enclave, until l is closed. A connection
// waits for an enclave that is not up yet, and for a server that has not accepted one yet, up to 30 seconds.
// report is called for connections that the enclave refused.
func Forward(d *vsock.Device, l net.Listener, port uint32, report func(error)) {
	var served atomic.Bool
	for {
		host, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files, until connections end
			report(fmt.Errorf("%v: %w", l.Addr(), err))
			time.Sleep(time.Second)
			continue
		}
		open := d.Go(func(ctx context.Context) {
			defer host.Close()
			dialing, cancel := context.WithTimeout(ctx, lingering)
			defer cancel()
			c, err := d.Dial(dialing, port)
			refused := err
			for wait := 10 * time.Millisecond; errors.Is(err, syscall.ECONNREFUSED) &&
				!served.Load(); wait *= 2 {
				refused = err
				select {
				case <-time.After(min(wait, 250*time.Millisecond)):
				case <-dialing.Done():
				}
				c, err = d.Dial(dialing, port)
			}
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("nothing listened on port %d within %v: %w", port, lingering, refused)
			}
			if err != nil {
				report(fmt.Errorf("%v: %w", l.Addr(), err))
				return
			}
			defer c.Close()
			served.Store(true)
			join(ctx, c, host.(stream))
		})
		if !open {
			host.Close()
		}
	}
}
