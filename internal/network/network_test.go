//go:build linux

package network

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/loopback"
)

// A guest is an enclave's network stack without an enclave.
type guest struct {
	t     testing.TB
	stack *stack.Stack
	conn  net.Conn
	done  chan error // what Serve returned
}

// connect makes a guest of a server.
func connect(t testing.TB, s *Server, cid uint32) *guest {
	t.Helper()
	g := &guest{t: t, done: make(chan error, 1)}
	var parent net.Conn
	g.conn, parent = net.Pipe()
	go func() { g.done <- s.Serve(t.Context(), cid, parent) }()
	t.Cleanup(func() { g.conn.Close() })
	if _, err := io.WriteString(g.conn, contract.NetworkRequest); err != nil {
		t.Fatal(err)
	}
	g.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol,
			arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	t.Cleanup(g.stack.Close)
	link := channel.New(256, contract.NetworkMTU+14, "\x02\x00\x00\x00\x00\x02")
	link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload // as init's device
	if err := g.stack.CreateNIC(1, ethernet.New(link)); err != nil {
		t.Fatal(err)
	}
	for i, protocol := range families {
		a := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address:   tcpip.AddrFromSlice(contract.NetworkEnclave[i].AsSlice()),
			PrefixLen: []int{contract.NetworkBits4, contract.NetworkBits6}[i]}}
		if err := g.stack.AddProtocolAddress(1, a, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
		g.stack.AddRoute(tcpip.Route{NIC: 1, Gateway: tcpip.AddrFromSlice(
			contract.NetworkGateway[i].AsSlice()),
			Destination: []tcpip.Subnet{header.IPv4EmptySubnet, header.IPv6EmptySubnet}[i]})
		g.stack.AddRoute(tcpip.Route{NIC: 1, Destination: a.AddressWithPrefix.Subnet()})
	}
	go func() {
		for {
			p := link.ReadContext(t.Context())
			if p == nil || g.frame(p.ToView().AsSlice()) != nil {
				return
			}
			p.DecRef()
		}
	}()
	go func() {
		for r := bufio.NewReader(g.conn); ; {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(f)})
			link.InjectInbound(0, p)
			p.DecRef()
		}
	}()
	return g
}

// frame sends one frame.
func (g *guest) frame(b []byte) error {
	_, err := g.conn.Write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func full(a string) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	ap := netip.MustParseAddrPort(a)
	protocol := ipv4.ProtocolNumber
	if ap.Addr().Is6() {
		protocol = ipv6.ProtocolNumber
	}
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(ap.Addr().AsSlice()), Port: ap.Port()}, protocol
}

func (g *guest) dial(to string) (*gonet.TCPConn, error) {
	a, protocol := full(to)
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, a, protocol)
}

func (g *guest) dialUDP(to string) *gonet.UDPConn {
	g.t.Helper()
	a, protocol := full(to)
	c, err := gonet.DialUDP(g.stack, nil, &a, protocol)
	if err != nil {
		g.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// port returns the port of an address of this machine.
func port(a net.Addr) string { _, p, _ := net.SplitHostPort(a.String()); return p }

// echo returns the port of a TCP or UDP server of this machine's loopback that sends back what it gets.
func echo(t testing.TB, network, address string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Skip(err) // IPv6
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:n], from)
			}
		}()
		return port(c.LocalAddr())
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.(*net.TCPConn).CloseWrite()
			}()
		}
	}()
	return port(l.Addr())
}

func TestTCP(t *testing.T) {
	for _, c := range []struct{ host, inside string }{{"127.0.0.1:0", "192.168.127.254:"},
		{"[::1]:0", "[fd6e:6562::fe]:"}} {
		t.Run(c.host, func(t *testing.T) {
			p := echo(t, "tcp", c.host)
			g := connect(t, newServer(t, Config{Loopback: true}), 16)
			conn, err := g.dial(c.inside + p)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 4<<20)
			rand.NewChaCha8([32]byte{}).Read(data)
			go func() {
				conn.Write(data)
				conn.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("%d bytes of %d came back (%v)", len(got), len(data), err)
			}
		})
	}
}

func TestUDP(t *testing.T) {
	p := echo(t, "udp", "127.0.0.1:0")
	g := connect(t, newServer(t, Config{Loopback: true}), 16)
	c := g.dialUDP("192.168.127.254:" + p)
	for _, size := range []int{1, 1472, 60000} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		c.Write(want)
		got := make([]byte, 1<<16)
		n, err := c.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("%d bytes of %d came back (%v)", n, size, err)
		}
	}
}

// Destinations of the parent that no enclave reaches unless the parent allows it.
func TestNotReachable(t *testing.T) {
	s := newServer(t, Config{})
	for _, a := range []string{"192.168.127.254:80", "[fd6e:6562::fe]:80", "192.168.127.1:80",
		"192.168.127.77:53",
		"169.254.169.254:80", "[fd00:ec2::254]:80", "169.254.1.1:80", "127.0.0.1:80", "[::1]:80",
		"0.0.0.0:80",
		"224.0.0.1:80", "255.255.255.255:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:80"} {
		if to, err := s.destination(netip.MustParseAddrPort(a)); err == nil {
			t.Errorf("%s leads to %s", a, to)
		}
	}
	s = newServer(t, Config{IMDS: true, Loopback: true, Resolvers: []string{"192.0.2.53:53"}})
	for a, want := range map[string]string{"169.254.169.254:80": "169.254.169.254:80",
		"192.0.2.1:1":        "192.0.2.1:1",
		"192.168.127.254:80": "127.0.0.1:80", "[fd6e:6562::fe]:80": "[::1]:80",
		"192.168.127.1:53":  "192.0.2.53:53",
		"[fd6e:6562::1]:53": "192.0.2.53:53"} {
		if to, err := s.destination(netip.MustParseAddrPort(a)); err != nil || to != want {
			t.Errorf("%s leads to %q (%v), want %s", a, to, err, want)
		}
	}
	g := connect(t, newServer(t, Config{}), 16)
	if _, err := g.dial("192.168.127.254:80"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, want a refused connection", err)
	}
}

// The answers of a resolver that sends length and message separately are written in one piece each.
func TestDNS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for _, part := range []string{"\x00", "\x03", "ab", "c\x00\x01d"} {
			io.WriteString(c, part)
			time.Sleep(10 * time.Millisecond)
		}
		c.Close()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	err = messagesFromHost(c, writer(func(b []byte) (int, error) {
		written = append(written, string(b))
		return len(b), nil
	}))
	if got := fmt.Sprintf("%q", written); got != `["\x00\x03abc" "\x00\x01d"]` || err != nil {
		t.Error(got, err)
	}
	g := connect(t, newServer(t, Config{Resolvers: []string{"127.0.0.1:" + echo(t, "udp", "127.0.0.1:0")}}),
		16)
	q := g.dialUDP("[fd6e:6562::1]:53")
	q.Write([]byte("query"))
	b := make([]byte, 100)
	if n, err := q.Read(b); err != nil || string(b[:n]) != "query" {
		t.Errorf("%q %v", b[:n], err)
	}
}

func TestPublish(t *testing.T) {
	overTCP, overUDP, over6 := loopback.Free(t), loopback.Free(t), loopback.Free(t)
	if l, err := net.Listen("tcp", "[::1]"+strings.TrimPrefix(over6, "127.0.0.1")); err == nil { // with IPv6
		over6 = l.Addr().String()
		l.Close()
	}
	s := newServer(t, Config{Publish: []Published{
		{Network: "tcp", Listen: overTCP, Port: 443}, {CID: 17, Network: "udp", Listen: overUDP, Port: 53},
		{Network: "tcp", Listen: over6, Port: 444}}})
	c, err := net.Dial("tcp", overTCP)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset: there is no enclave", err)
	}
	g := connect(t, s, 17)
	for i, p := range []struct {
		at, from string
		port     uint16
	}{{overTCP, "192.168.127.1", 443}, {over6, "fd6e:6562::1", 444}} {
		inside := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(contract.NetworkEnclave[i].AsSlice()),
			Port: p.port}
		l, err := gonet.ListenTCP(g.stack, inside, families[i])
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
		var got []byte
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if c, err = net.Dial("tcp", p.at); err == nil {
				got, err = io.ReadAll(c)
			}
			if !errors.Is(err, syscall.ECONNRESET) || time.Now().After(end) {
				break // the server may learn of the enclave later
			}
		}
		if string(got) != p.from || err != nil {
			t.Errorf("from %q (%v), want %s", got, err, p.from)
		}
	}
	inside, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{Port: 53}, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := inside.ReadFrom(b)
			if err != nil {
				return
			}
			inside.WriteTo(append([]byte("re: "), b[:n]...), from)
		}
	}()
	if c, err = net.Dial("udp", overUDP); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 100)
	for range 3 {
		c.Write([]byte("hello"))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "re: hello" {
			t.Errorf("%q %v", b[:n], err)
		}
	}
	// A taken port.
	if _, err := New(Config{Publish: []Published{{Network: "tcp", Listen: overTCP, Port: 1}}}); err == nil ||
		!strings.Contains(err.Error(), "publish "+overTCP+":1/tcp: ") {
		t.Error(err)
	}
}

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]string{
		"8443:443": "127.0.0.1:8443:443/tcp", "53:53/udp": "127.0.0.1:53:53/udp",
		"0.0.0.0:80:8080/tcp": "0.0.0.0:80:8080/tcp", "[::1]:80:8080": "[::1]:80:8080/tcp",
		"16@8443:443": "16@127.0.0.1:8443:443/tcp", "16@10.0.0.1:1:2/udp": "16@10.0.0.1:1:2/udp",
		"443": "!expected [CID@]", "0:1": "!expected 1 to 65535", "1:65536": "!expected 1 to 65535",
		"a:1:1": "!expected an IP address", "3@1:1": "!a number from 4",
		"::1:80:80": "!expected an IP address",
		"1:1/sctp":  "!expected 1 to 65535",
	} {
		p, err := ParsePublish(text, "127.0.0.1")
		if wrong, ok := strings.CutPrefix(want, "!"); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: %v, want %s", text, err, wrong)
			}
		} else if err != nil || p.String() != want {
			t.Errorf("%s: %v (%v), want %s", text, p, err, want)
		}
	}
}

// Several enclaves have networks of their own, and one CID has one network.
func TestServer(t *testing.T) {
	var mu sync.Mutex
	var events []string
	s := newServer(t, Config{Event: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, fmt.Sprint(e.Kind, e.CID, e.Reason, e.Count, e.Text))
	}})
	g := connect(t, s, 16)
	notice := func(line string) {
		f := append(make([]byte, 12), byte(contract.NetworkNotice>>8), contract.NetworkNotice&0xff)
		if err := g.frame(append(f, line...)); err != nil {
			t.Fatal(err)
		}
	}
	notice("egress 3 tcp 192.0.2.1:443")
	for _, bad := range []string{"", "egress", "egress x y", "egress -1 y", "dns 1 a\x1b[2Jb",
		"dns 99999999999 x"} {
		notice(bad)
	}
	for range 3 {
		if g.frame([]byte{1, 2, 3}) != nil || g.frame(nil) != nil ||
			g.frame(bytes.Repeat([]byte{0xff}, 65535)) != nil {
			t.Fatal("the server closed the connection")
		}
	}
	// Fragments of a datagram that overlap.
	ip := []byte{0x45, 0, 0, 44, 0, 1, 0x20, 0, 64, 17, 0, 0, 192, 168, 127, 2, 192, 168, 127, 1}
	for _, at := range []byte{0, 1, 2, 1} {
		ip[7] = at
		f := "\x5a\x94\xef\xe4\x0c\xdd\x02\x00\x00\x00\x00\x02\x08\x00" + string(ip) + strings.Repeat("x", 24)
		if g.frame([]byte(f)) != nil {
			t.Fatal("the server closed the connection")
		}
	}
	other := connect(t, s, 17)
	again, parent := net.Pipe()
	go io.WriteString(again, contract.NetworkRequest)
	if err := s.Serve(t.Context(), 16, parent); !errors.Is(err, ErrTaken) {
		t.Errorf("%v, want %v", err, ErrTaken)
	}
	status := s.Status()
	if len(status.Enclaves) != 2 {
		t.Errorf("%d enclaves", len(status.Enclaves))
	}
	for _, e := range status.Enclaves {
		if e.CID == 16 && (e.Refused["egress"] != 3 || e.LastRefused != "egress: tcp 192.0.2.1:443" ||
			e.Received < 3*65535) {
			t.Errorf("%+v", e)
		}
	}
	for _, one := range []*guest{g, other} {
		one.conn.Close()
		if err := <-one.done; err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(events, "; "); !strings.HasPrefix(got,
		"network-up160; network-refused16egress3tcp 192.0.2.1:443; network-up170; network-down") {
		t.Error(got)
	}
}

func TestRequest(t *testing.T) {
	s := newServer(t, Config{})
	for _, c := range []struct{ sent, want string }{
		{"", "EOF"}, {"GET / HTTP/1.1\r\n\r\n", "expected POST /connect"},
		{"POST /connect HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", 200) + "\r\n", "more than 1024 bytes"},
		{strings.Repeat("x", 300<<10), "buffer full"},
	} {
		guest, parent := net.Pipe()
		go func() {
			io.WriteString(guest, c.sent)
			guest.Close()
		}()
		if err := s.Serve(t.Context(), 16, parent); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.30q: %v, want %s", c.sent, err, c.want)
		}
	}
}

// What an enclave sent before it ended arrives, and what it had not finished is reset.
func TestEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := connect(t, newServer(t, Config{Loopback: true}), 16)
	var hosts [2]net.Conn
	for i := range hosts {
		c, err := g.dial("192.168.127.254:" + port(l.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		if hosts[i], err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "last words")
		if i == 0 {
			c.CloseWrite()
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(hosts[i], b); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // the end of the stream has arrived
			if got, err := io.ReadAll(hosts[i]); string(got) != " words" || err != nil {
				t.Errorf("%q %v", got, err)
			}
		}
	}
	g.conn.Close()
	<-g.done
	if got, err := io.ReadAll(hosts[1]); err == nil {
		t.Errorf("%q and a regular end, want a reset", got)
	}
}

func TestProxy(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization")
		if strings.HasSuffix(r.Host, ":81") {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := net.Dial("tcp", "127.0.0.1:"+p)
		if err != nil {
			return
		}
		h, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(h, "HTTP/1.1 200 OK\r\n\r\nfirst")
		go func() {
			io.Copy(c, h)
			c.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(h, c)
		h.Close()
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "secret")
	g := connect(t, newServer(t, Config{Proxy: func(r *http.Request) (*url.URL, error) {
		return u, nil
	}}), 16)
	c, err := g.dial("192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, " second")
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "first second" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if asked != "CONNECT 192.0.2.1:80 Basic bWU6c2VjcmV0" {
		t.Error(asked)
	}
	if _, err := g.dial("192.0.2.1:81"); err == nil {
		t.Error("the proxy refused, and the connection was established")
	}
}

func TestPcap(t *testing.T) {
	var file bytes.Buffer
	p := &pcap{w: &file}
	p.add([]byte("frame 1"))
	p.add([]byte("frame 22"))
	b := file.Bytes()
	if want := "\xd4\xc3\xb2\xa1\x02\x00\x04\x00"; !strings.HasPrefix(string(b), want) ||
		len(b) != 24+16+7+16+8 ||
		string(b[40:47]) != "frame 1" || b[24+8] != 7 || b[47+12] != 8 {
		t.Errorf("%x", b)
	}
}

// A guest that floods with connections gets no more than its limit.
func TestFlows(t *testing.T) {
	e := &enclave{Server: newServer(t, Config{})}
	for i := range 5 {
		if got := e.begin(&e.udp, 3); got != (i < 3) {
			t.Errorf("flow %d: %v", i, got)
		}
	}
	e.end(&e.udp)
	if !e.begin(&e.udp, 3) {
		t.Error("no flow after one has ended")
	}
	if got := e.udp.status(); got != (FlowStatus{Open: 3, Total: 4, Rejected: 2}) {
		t.Errorf("%+v", got)
	}
}

// FuzzReceive reads what a hostile enclave sends.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x03\x00abc\xff\xff"))
	arp := "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
	f.Add(append([]byte{byte(len(arp)), 0}, arp...))
	f.Add([]byte("\x12\x00AAAAAABBBBBB\x88\xb5dns 1 x\x00\x00"))
	s, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		guest, parent := net.Pipe()
		go io.Copy(io.Discard, guest)
		go func() {
			io.WriteString(guest, contract.NetworkRequest)
			guest.Write(b)
			guest.Close()
		}()
		if err := s.Serve(t.Context(), 16, parent); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
}
