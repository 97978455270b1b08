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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// An Endpoint is something on this host that a vsock port is joined with.
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

// Local says whether the endpoint cannot be reached from, or lead to, another machine.
func (e Endpoint) Local() bool {
	if e.network != "tcp" {
		return true
	}
	host, _, _ := net.SplitHostPort(e.address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ErrCommand is the error of listening at a command.
var ErrCommand = errors.New("only connections of the enclave can start a command")

// Listen waits for connections of the host. There is no listening for exec, see [ErrCommand]. A socket's file
// that a process left behind which did not live to remove it is replaced.
func (e Endpoint) Listen() (net.Listener, error) {
	if e.network == "exec" {
		return nil, fmt.Errorf("%v: %w", e, ErrCommand)
	}
	l, err := net.Listen(e.network, e.address)
	if e.network == "unix" && errors.Is(err, syscall.EADDRINUSE) {
		// Only a socket that nobody listens at any more refuses; a file of another kind is no socket.
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

// Handler joins each connection of the enclave with one to the endpoint. The enclave's is refused when the
// endpoint's cannot be had; report, if any, is told why. The errors of commands go to stderr.
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

// stream is what both kinds of host connections are.
type stream interface {
	net.Conn
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

// open connects, which ends with connecting, or starts a command, which lives no longer than ctx.
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

// start runs a command of the shell in a process group of its own.
func (e Endpoint) start(ctx context.Context, stderr io.Writer) (stream, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "exec"), os.NewFile(uintptr(fds[1]), "exec")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	ctx, kill := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", e.address)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A background process that inherited standard error must not keep us waiting.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		kill()
		conn.Close()
		return nil, err
	}
	return &process{UnixConn: conn.(*net.UnixConn), cmd: cmd, kill: kill}, nil
}

// Close ends the connection and waits for the command, which has to be through with what it read before it is
// killed. What it started in the background ends with it.
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

// lingering is how long the host may take to read the rest when the enclave is through with a connection, and
// a command to end.
const lingering = 30 * time.Second

// join copies in both directions, until both have ended. The end of one direction is passed on and leaves the
// other alone; where a stream breaks off, the other side gets a reset, so that it does not take a part for
// the whole. Only TCP has one on the host's side. The end of ctx breaks off both.
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
			// The enclave wants no more; what it has sent is still on its way to the host.
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
			// The host reads no more; what it has said before is still on its way to the enclave.
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

// breakOff closes a connection of the host with a reset, where it can have one.
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

// Forward joins each connection that l accepts with one to a port of the enclave, until l is closed. It waits
// for an enclave that is not up yet; report is told about connections that the enclave refused.
func Forward(d *vsock.Device, l net.Listener, port uint32, report func(error)) {
	for {
		host, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files, for one: that passes when connections end
			report(fmt.Errorf("%v: %w", l.Addr(), err))
			time.Sleep(time.Second)
			continue
		}
		open := d.Go(func(ctx context.Context) {
			defer host.Close()
			dialing, cancel := context.WithTimeout(ctx, lingering)
			defer cancel()
			c, err := d.Dial(dialing, port)
			if err != nil {
				report(fmt.Errorf("%v: %w", l.Addr(), err))
				return
			}
			defer c.Close()
			join(ctx, c, host.(stream))
		})
		if !open {
			host.Close()
		}
	}
}
