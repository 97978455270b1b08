//go:build linux

package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// A Published is a port of this machine that leads to a port of an enclave.
type Published struct {
	CID     uint32 // of the enclave; 0 means the only one that is connected
	Network string // "tcp" or "udp"
	Listen  string // HOST:PORT of this machine
	Port    uint16 // of the enclave
}

// ParsePublish parses [CID@][ADDRESS:]PORT:PORT[/tcp|/udp]. ADDRESS is an IP address, an IPv6 one in
// brackets; host is the default.
func ParsePublish(text, host string) (Published, error) {
	p := Published{Network: "tcp"}
	bad := func(what, expected string) (Published, error) {
		return p, fmt.Errorf("%s: expected %s", what, expected)
	}
	rest, found := strings.CutSuffix(text, "/udp")
	if found {
		p.Network = "udp"
	} else {
		rest = strings.TrimSuffix(rest, "/tcp")
	}
	if cid, after, ok := strings.Cut(rest, "@"); ok {
		n, err := strconv.ParseUint(cid, 10, 32)
		if err != nil || n <= contract.ParentCID {
			return bad("CID "+strconv.Quote(cid), "a number from 4")
		}
		p.CID, rest = uint32(n), after
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return bad(strconv.Quote(text), "[CID@][ADDRESS:]PORT:PORT[/tcp|/udp]")
	}
	n, err := strconv.ParseUint(rest[i+1:], 10, 16)
	if err != nil || n == 0 {
		return bad("port "+strconv.Quote(rest[i+1:]), "1 to 65535")
	}
	p.Port = uint16(n)
	outer := rest[:i]
	if !strings.Contains(outer, ":") {
		outer = net.JoinHostPort(host, outer)
	}
	address, number, err := net.SplitHostPort(outer)
	if err != nil || address != "" && net.ParseIP(address) == nil {
		return bad("address "+strconv.Quote(outer), "an IP address and a port, IPv6 in brackets")
	}
	if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
		return bad("port "+strconv.Quote(number), "1 to 65535")
	}
	p.Listen = outer
	return p, nil
}

// Local reports whether only this machine can reach the port.
func (p Published) Local() bool {
	host, _, _ := net.SplitHostPort(p.Listen)
	return net.ParseIP(host).IsLoopback()
}

// String returns the form that [ParsePublish] parses.
func (p Published) String() string {
	s := p.Listen + ":" + strconv.Itoa(int(p.Port)) + "/" + p.Network
	if p.CID != 0 {
		s = strconv.FormatUint(uint64(p.CID), 10) + "@" + s
	}
	return s
}

// publish opens a port.
func (s *Server) publish(p Published) error {
	if p.Network == "udp" {
		c, err := net.ListenPacket("udp", p.Listen)
		if err != nil {
			return fmt.Errorf("publish %v: %w", p, err)
		}
		s.closers = append(s.closers, c)
		go s.serveUDP(p, c)
		return nil
	}
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return fmt.Errorf("publish %v: %w", p, err)
	}
	s.closers = append(s.closers, l)
	go func() {
		for {
			host, err := l.Accept()
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil: // such as too many open files
				time.Sleep(time.Second)
				continue
			}
			go s.serveTCP(p, host)
		}
	}()
	return nil
}

// target returns the enclave of a published port, or nil.
func (s *Server) target(p Published) *enclave {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.CID == 0 && len(s.enclaves) == 1 {
		for _, e := range s.enclaves {
			return e
		}
	}
	return s.enclaves[p.CID]
}

// serveTCP connects a connection of the host to the enclave. Without an enclave it is reset.
func (s *Server) serveTCP(p Published, host net.Conn) {
	e := s.target(p)
	if e != nil && e.begin(&e.tcp, maxTCP) {
		defer e.end(&e.tcp)
		for family := range contract.NetworkEnclave { // a program may listen on one of them only
			if wq, ep, err := e.connect(tcp.ProtocolNumber, family, p.Port); err == nil {
				e.join(wq, ep, host, false)
				return
			}
		}
	}
	host.(*net.TCPConn).SetLinger(0)
	host.Close()
}

// connect connects to a port of the enclave, at its address of a family: 0 for IPv4, 1 for IPv6.
func (e *enclave) connect(protocol tcpip.TransportProtocolNumber, family int, port uint16) (*waiter.Queue,
	tcpip.Endpoint, error) {
	wq := new(waiter.Queue)
	ep, err := e.stack.NewEndpoint(protocol, families[family], wq)
	if err != nil {
		return nil, nil, errors.New(err.String())
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	to := tcpip.AddrFromSlice(contract.NetworkEnclave[family].AsSlice())
	err = ep.Connect(tcpip.FullAddress{NIC: 1, Addr: to, Port: port})
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		ctx, stop := context.WithTimeout(e.up, dialTimeout)
		defer stop()
		select {
		case <-ready:
			err = ep.LastError()
		case <-ctx.Done():
			err = &tcpip.ErrTimeout{}
		}
	}
	if err != nil {
		ep.Abort()
		return nil, nil, errors.New(err.String())
	}
	return wq, ep, nil
}

// A peer is a flow of datagrams between a sender outside and a published port.
type peer struct {
	ep   tcpip.Endpoint
	idle *time.Timer
}

// serveUDP relays datagrams, with one flow to the enclave for each sender.
func (s *Server) serveUDP(p Published, c net.PacketConn) {
	var mu sync.Mutex
	peers := map[string]*peer{}
	b := make([]byte, chunk)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		mu.Lock()
		one := peers[from.String()]
		mu.Unlock()
		if one == nil {
			e := s.target(p)
			if e == nil || !e.begin(&e.udp, maxUDP) {
				continue
			}
			wq, ep, err := e.connect(udp.ProtocolNumber, 0, p.Port)
			if err != nil {
				e.end(&e.udp)
				continue
			}
			one = &peer{ep, time.AfterFunc(udpIdle, ep.Close)}
			mu.Lock()
			peers[from.String()] = one
			mu.Unlock()
			go func() {
				defer e.end(&e.udp)
				e.toHost(wq, ep, writer(func(b []byte) (int, error) {
					one.idle.Reset(udpIdle)
					return c.WriteTo(b, from)
				}))
				mu.Lock()
				delete(peers, from.String())
				mu.Unlock()
				ep.Close()
			}()
		}
		one.idle.Reset(udpIdle)
		one.ep.Write(bytes.NewReader(b[:n]), tcpip.WriteOptions{})
	}
}
