//go:build linux

package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/netrule"
)

const (
	dialTimeout = 30 * time.Second
	udpIdle     = time.Minute
	lastWords   = 5 * time.Second // for the host to read what the enclave sent before its connection ended
	dnsPort     = 53
	// chunk is the largest number of bytes that are copied at once. It holds any UDP datagram.
	chunk = 64 << 10
	// segment is the largest number of bytes of a TCP stream that are copied at once: they fit into a packet.
	segment = 63 << 10
)

// chunks are used only while there is something to copy: a connection that waits has none.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// errNotReachable is the error of destinations that an enclave must not reach.
var errNotReachable = errors.New("not reachable for enclaves")

// destination returns the address to connect to when an enclave connects to a.
func (s *Server) destination(a netip.AddrPort) (string, error) {
	ip := a.Addr()
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for i, bits := range []int{contract.NetworkBits4, contract.NetworkBits6} {
		own := netip.PrefixFrom(contract.NetworkGateway[i], bits).Masked()
		switch {
		case ip == contract.NetworkGateway[i] && a.Port() == dnsPort:
			return s.cfg.Resolvers[0], nil
		case ip == contract.NetworkHost[i] && s.cfg.Loopback:
			return netip.AddrPortFrom(loopback[i], a.Port()).String(), nil
		case own.Contains(ip):
			return "", errNotReachable
		}
	}
	if netrule.IsMetadata(ip) && s.cfg.IMDS {
		return a.String(), nil
	}
	if netrule.IsMetadata(ip) || ip.Is4In6() || !ip.IsGlobalUnicast() {
		return "", errNotReachable
	}
	return a.String(), nil
}

// dial connects to where an enclave wants to go.
func (s *Server) dial(ctx context.Context, network string, a netip.AddrPort) (net.Conn, error) {
	to, err := s.destination(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	if network == "tcp" && s.cfg.Proxy != nil && to == a.String() {
		proxy, err := s.cfg.Proxy(&http.Request{URL: &url.URL{Scheme: scheme(a.Port()), Host: to}})
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			return dialProxy(ctx, proxy, to)
		}
	}
	return d.DialContext(ctx, network, to)
}

// scheme is that by which the environment names the proxy for a port.
func scheme(port uint16) string {
	if port == 80 {
		return "http"
	}
	return "https"
}

// dialProxy connects through an HTTP proxy (RFC 9110, section 9.3.6).
func dialProxy(ctx context.Context, proxy *url.URL, to string) (net.Conn, error) {
	host := proxy.Host
	if proxy.Port() == "" {
		host = net.JoinHostPort(proxy.Hostname(), "80")
	}
	if proxy.Scheme != "http" {
		return nil, fmt.Errorf("proxy %s: scheme %q, expected http", proxy.Redacted(), proxy.Scheme)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: to}, Host: to,
		Header: http.Header{}}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
		request.Header["Proxy-Authorization"] = request.Header["Authorization"]
		delete(request.Header, "Authorization")
	}
	err = request.Write(conn)
	if err == nil {
		// What follows the answer belongs to the connection: it is read byte by byte.
		var answer *http.Response
		answer, err = http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), request)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = errors.New(answer.Status)
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// oneByte reads one byte at a time.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}

// forwardTCP connects a connection of the enclave to its destination: the enclave's connection is established
// when the host's is, and reset if that fails.
func (e *enclave) forwardTCP(r *tcp.ForwarderRequest) {
	if !e.begin(&e.tcp, maxTCP) {
		r.Complete(true)
		return
	}
	defer e.end(&e.tcp)
	to := addrPort(r.ID().LocalAddress, r.ID().LocalPort)
	host, err := e.dial(e.up, "tcp", to)
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, failed := r.CreateEndpoint(&wq)
	r.Complete(failed != nil)
	if failed != nil {
		host.Close()
		return
	}
	e.join(&wq, ep, host, to.Port() == dnsPort)
}

// join copies between a connection of the enclave and one of the host until both directions have ended. What
// breaks on one side is reset on the other.
func (e *enclave) join(wq *waiter.Queue, ep tcpip.Endpoint, host net.Conn, dns bool) {
	share := min(max(budget/e.tcp.open.Load(), minBuffer), maxBuffer)
	ep.SocketOptions().SetSendBufferSize(share, true)
	ep.SocketOptions().SetReceiveBufferSize(share, true)
	inside := gonet.NewTCPConn(wq, ep)
	reset := func() {
		host.(*net.TCPConn).SetLinger(0)
		host.Close()
		ep.Abort()
	}
	// A reset of the enclave must also wake what waits for the host.
	entry := waiter.NewFunctionEntry(waiter.EventErr, func(waiter.EventMask) {
		if s := tcp.EndpointState(ep.State()); s == tcp.StateError || s == tcp.StateClose {
			host.SetDeadline(time.Now())
		}
	})
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	// When the connection to the enclave is lost, nothing more can go there.
	stop := context.AfterFunc(e.up, func() {
		host.SetReadDeadline(time.Now())
		host.SetWriteDeadline(time.Now().Add(lastWords))
		inside.SetWriteDeadline(time.Now())
	})
	defer stop()
	var both sync.WaitGroup
	both.Add(1)
	go func() {
		defer both.Done()
		if err := e.toHost(wq, ep, host); err != nil {
			reset()
			return
		}
		host.(*net.TCPConn).CloseWrite()
	}()
	copyIn := fromHost
	if dns {
		copyIn = messagesFromHost
	}
	switch err := copyIn(host, inside); {
	case err == nil:
		inside.CloseWrite()
	case e.up.Err() == nil:
		reset()
	}
	both.Wait()
	host.Close()
	inside.Close()
}

var errDown = errors.New("the connection to the enclave has ended")

// toHost copies from the enclave to the host until the enclave ends the direction. When the connection to the
// enclave is down, it still copies what has arrived.
func (e *enclave) toHost(wq *waiter.Queue, ep tcpip.Endpoint, host io.Writer) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	for {
		b := chunks.Get().(*[chunk]byte)
		into := tcpip.SliceWriter(b[:])
		read, err := ep.Read(&into, tcpip.ReadOptions{})
		var failed error
		if err == nil {
			_, failed = host.Write(b[:read.Count])
		}
		chunks.Put(b)
		switch err.(type) {
		case nil:
			if failed != nil {
				return failed
			}
		case *tcpip.ErrClosedForReceive:
			return nil
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-e.up.Done():
				return errDown
			}
		default:
			return errors.New(err.String())
		}
	}
}

// fromHost copies from the host to the enclave until the host ends the direction. While it waits, it holds no
// memory.
func fromHost(host net.Conn, inside io.Writer) error {
	raw, err := host.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	_, stream := host.(*net.TCPConn)
	most := chunk
	if stream {
		most = segment
	}
	for {
		var b *[chunk]byte
		n := 0
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			b = chunks.Get().(*[chunk]byte)
			for {
				if n, failed = unix.Read(int(fd), b[:most]); failed != unix.EINTR {
					break
				}
			}
			if failed == unix.EAGAIN {
				chunks.Put(b)
				b = nil
				return false
			}
			return true
		})
		if err = errors.Join(err, failed); err == nil && n > 0 {
			_, err = inside.Write(b[:n])
		}
		if b != nil {
			chunks.Put(b)
		}
		if err != nil || n == 0 && stream {
			return err
		}
	}
}

// messagesFromHost copies answers of DNS over TCP, each in one piece: the enclave's filter reads whole
// messages only.
func messagesFromHost(host net.Conn, inside io.Writer) error {
	for r := bufio.NewReader(host); ; {
		size, err := r.Peek(2)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		b := make([]byte, 2+int(binary.BigEndian.Uint16(size)))
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if _, err := inside.Write(b); err != nil {
			return err
		}
	}
}

// forwardUDP begins a flow of datagrams from the enclave to a destination. It ends when it was idle.
func (e *enclave) forwardUDP(r *udp.ForwarderRequest) bool {
	to := addrPort(r.ID().LocalAddress, r.ID().LocalPort)
	if _, err := e.destination(to); err != nil {
		return false // the stack answers "port unreachable"
	}
	if !e.begin(&e.udp, maxUDP) {
		return true
	}
	var wq waiter.Queue
	ep, failed := r.CreateEndpoint(&wq)
	if failed != nil {
		e.end(&e.udp)
		return true
	}
	go func() {
		defer e.end(&e.udp)
		defer ep.Close()
		if host, err := e.dial(e.up, "udp", to); err == nil {
			e.relay(&wq, ep, host)
		}
	}()
	return true
}

// relay copies datagrams in both directions until neither side has sent one for a while.
func (e *enclave) relay(wq *waiter.Queue, ep tcpip.Endpoint, host net.Conn) {
	inside := gonet.NewUDPConn(wq, ep)
	end := func() {
		host.Close()
		inside.Close()
	}
	defer end()
	idle := time.AfterFunc(udpIdle, end)
	defer idle.Stop()
	go func() {
		fromHost(host, writer(func(b []byte) (int, error) {
			idle.Reset(udpIdle)
			return inside.Write(b)
		}))
		end()
	}()
	e.toHost(wq, ep, writer(func(b []byte) (int, error) {
		idle.Reset(udpIdle)
		host.Write(b) // an error is that of an earlier datagram: the destination rejected it
		return len(b), nil
	}))
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// resolvers returns the name servers of a file as HOST:PORT, or that of this machine, as resolv.conf(5) says.
func resolvers(file string) []string {
	text, _ := os.ReadFile(file)
	var all []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			all = append(all, netip.AddrPortFrom(a, dnsPort).String())
		}
	}
	return append(all, "127.0.0.1:53")
}
