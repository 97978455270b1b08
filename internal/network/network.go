//go:build linux

// Package network is the parent's side of an enclave's network: it carries the Ethernet frames of enclaves
// between their vsock connections and a network stack in this process (gVisor's), whose connections it makes
// with ordinary sockets. It needs no root and no device of the host.
//
// It enforces no rules of the image: those are enforced inside, by init. What it refuses protects the parent:
// its loopback, its link-local addresses and its instance metadata. docs/network.md describes all of it.
package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Config configures a [Server]. The zero value of each field has a meaning.
type Config struct {
	// Resolvers are the addresses, HOST:PORT, to which DNS goes: the first one. None means the first name
	// server of /etc/resolv.conf.
	Resolvers []string
	// Loopback connects [contract.NetworkHost] to this machine's loopback addresses.
	Loopback bool
	// IMDS allows the instance metadata of this machine.
	IMDS bool
	// Proxy returns the proxy for a TCP connection, nil for none; see [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// Publish are the ports of this machine that lead to enclaves.
	Publish []Published
	// Pcap receives all frames, in the format of libpcap.
	Pcap io.Writer
	// Event is called for each event, one at a time. It may be nil, and must not call the server.
	Event func(Event)
}

// EventKind names events as neb run --json does.
type EventKind string

// The events of a network.
const (
	Up      EventKind = "network-up"      // an enclave connected
	Down    EventKind = "network-down"    // its connection ended
	Refused EventKind = "network-refused" // the rules inside refused packets
)

// An Event is something that happened to the network of an enclave.
type Event struct {
	Kind   EventKind
	CID    uint32 // of the enclave
	Reason string // of Refused: a reason of package netrule
	Count  int    // of Refused: how many packets, since the last event for this reason
	Text   string // of Refused: the first of them
}

// Limits for each enclave.
const (
	maxTCP     = 4096 // connections
	maxUDP     = 1024 // flows
	maxDialing = 512  // TCP connections that are being made
	queueLen   = 256  // frames for the enclave
	// A TCP connection holds at most minBuffer to maxBuffer bytes in each direction: its share of budget when
	// it begins.
	minBuffer, maxBuffer = 64 << 10, 1 << 20
	budget               = 64 << 20
	maxReasons           = 16
	maxNotice            = 400 // bytes
)

// gatewayMAC is the Ethernet address of the gateway, as of gvproxy.
const gatewayMAC = tcpip.LinkAddress("\x5a\x94\xef\xe4\x0c\xdd")

// families are in the order of the addresses in package contract.
var families = [...]tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber}

// A Server serves enclaves, each in a network of its own.
type Server struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	pcap    *pcap
	closers []io.Closer
	events  sync.Mutex

	mu       sync.Mutex
	enclaves map[uint32]*enclave
}

// New returns a server and opens its published ports.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, enclaves: map[uint32]*enclave{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if len(cfg.Resolvers) == 0 {
		s.cfg.Resolvers = resolvers("/etc/resolv.conf")
	}
	if cfg.Pcap != nil {
		s.pcap = &pcap{w: cfg.Pcap}
	}
	for _, p := range cfg.Publish {
		if err := s.publish(p); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Close closes the published ports and ends all networks.
func (s *Server) Close() {
	s.cancel()
	for _, c := range s.closers {
		c.Close()
	}
}

func (s *Server) event(e Event) {
	if s.cfg.Event != nil {
		s.events.Lock()
		defer s.events.Unlock()
		s.cfg.Event(e)
	}
}

// An enclave is one enclave's network.
type enclave struct {
	*Server
	cid   uint32
	since time.Time
	stack *stack.Stack
	link  *channel.Endpoint
	up    context.Context // ends with the connection to the enclave
	lost  context.CancelFunc

	mu    sync.Mutex // guards ended
	ended bool       // no flow may begin
	work  sync.WaitGroup

	in, out  atomic.Int64 // bytes of frames, from and to the enclave
	tcp, udp flows

	notices sync.Mutex
	refused map[string]int
	last    string
}

// flows counts connections.
type flows struct {
	open, total, rejected atomic.Int64
}

// begin counts a flow. It returns false for one beyond the limit, or of a network that has ended.
func (e *enclave) begin(f *flows, limit int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended || f.open.Load() >= limit {
		f.rejected.Add(1)
		return false
	}
	f.open.Add(1)
	f.total.Add(1)
	e.work.Add(1)
	return true
}

func (e *enclave) end(f *flows) {
	f.open.Add(-1)
	e.work.Done()
}

// ErrTaken is the error of a second connection from one CID: a program in the enclave must not take the place
// of its init.
var ErrTaken = errors.New("this CID is connected already")

// Serve serves one enclave over a connection that it opened, until that ends or ctx is done. It closes conn,
// and returns when the host has received what the enclave sent.
func (s *Server) Serve(ctx context.Context, cid uint32, conn io.ReadWriteCloser) error {
	defer conn.Close()
	e := &enclave{Server: s, cid: cid, since: time.Now(), refused: map[string]int{}}
	e.up, e.lost = context.WithCancel(ctx)
	defer e.lost()
	stop := context.AfterFunc(s.ctx, e.lost)
	defer stop()
	context.AfterFunc(e.up, func() { conn.Close() })
	if err := e.makeStack(); err != nil {
		return err
	}
	defer e.stack.Close()
	r := bufio.NewReaderSize(conn, 256<<10)
	if err := readRequest(r); err != nil {
		return fmt.Errorf("CID %d: %w", cid, err)
	}
	if !s.add(e) {
		return fmt.Errorf("CID %d: %w", cid, ErrTaken)
	}
	s.event(Event{Kind: Up, CID: cid})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		e.send(conn)
		e.lost()
	}()
	err := e.receive(r)
	told := e.up.Err() != nil
	e.lost()
	s.remove(e)
	<-sent
	e.work.Wait()
	s.event(Event{Kind: Down, CID: cid})
	if errors.Is(err, io.EOF) || told {
		return nil
	}
	return fmt.Errorf("CID %d: %w", cid, err)
}

// add registers an enclave, unless its CID has one.
func (s *Server) add(e *enclave) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enclaves[e.cid] != nil {
		return false
	}
	s.enclaves[e.cid] = e
	return true
}

// remove removes an enclave; no flow begins any more.
func (s *Server) remove(e *enclave) {
	s.mu.Lock()
	delete(s.enclaves, e.cid)
	s.mu.Unlock()
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// readRequest reads what the enclave sends first: [contract.NetworkRequest], or another request of HTTP for
// the same path, as other clients of gvproxy send.
func readRequest(r *bufio.Reader) error {
	first := true
	for read := 0; read < 1024; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("network request: %w", err)
		}
		read += len(line)
		if first && !bytes.HasPrefix(line, []byte("POST /connect ")) {
			return fmt.Errorf("invalid network request: found %.40q, expected POST /connect", line)
		}
		first = false
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return errors.New("invalid network request: more than 1024 bytes")
}

// makeStack makes the network stack, which answers for every address.
func (e *enclave) makeStack() error {
	e.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	e.link = channel.New(queueLen, contract.NetworkMTU+header.EthernetMinimumSize, gatewayMAC)
	// vsock changes no bytes: neither side checks checksums.
	e.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
	const nic = 1
	if err := e.stack.CreateNIC(nic, ethernet.New(e.link)); err != nil {
		return fmt.Errorf("network stack: %v", err)
	}
	for i, protocol := range families {
		bits := []int{contract.NetworkBits4, contract.NetworkBits6}[i]
		// It answers neighbour discovery of IPv6 for its own addresses only.
		for _, a := range []netip.Addr{contract.NetworkGateway[i], contract.NetworkHost[i]} {
			address := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddressWithPrefix{
				Address: tcpip.AddrFromSlice(a.AsSlice()), PrefixLen: bits}}
			if err := e.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
				return fmt.Errorf("network stack: %v", err)
			}
		}
	}
	e.stack.SetSpoofing(nic, true)
	e.stack.SetPromiscuousMode(nic, true)
	e.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: minBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: minBuffer, Max: maxBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send} {
		if err := e.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("network stack: %v", err)
		}
	}
	e.stack.SetTransportProtocolHandler(tcp.ProtocolNumber,
		tcp.NewForwarder(e.stack, minBuffer, maxDialing, e.forwardTCP).HandlePacket)
	e.stack.SetTransportProtocolHandler(udp.ProtocolNumber,
		udp.NewForwarder(e.stack, e.forwardUDP).HandlePacket)
	return nil
}

// receive delivers the enclave's frames to the stack until the connection ends.
func (e *enclave) receive(r *bufio.Reader) error {
	for {
		frame, err := readFrame(r)
		if err != nil {
			return err
		}
		b := frame.AsSlice()
		e.in.Add(int64(len(b)))
		e.pcap.add(b)
		if len(b) < header.EthernetMinimumSize {
			frame.Release()
			continue
		}
		if binary.BigEndian.Uint16(b[12:]) == contract.NetworkNotice {
			e.notice(string(b[header.EthernetMinimumSize:min(len(b), maxNotice)]))
			frame.Release()
			continue
		}
		packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
		e.link.InjectInbound(0, packet)
		packet.DecRef()
	}
}

// readFrame reads one frame, after its length.
func readFrame(r io.Reader) (*buffer.View, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	frame := buffer.NewViewSize(int(binary.LittleEndian.Uint16(size[:])))
	if _, err := io.ReadFull(r, frame.AsSlice()); err != nil {
		frame.Release()
		return nil, err
	}
	return frame, nil
}

// send sends the stack's frames to the enclave until the connection ends.
func (e *enclave) send(conn io.Writer) {
	w := bufio.NewWriterSize(conn, 256<<10)
	for {
		packet := e.link.ReadContext(e.up)
		if packet == nil {
			return
		}
		size := packet.Size()
		e.out.Add(int64(size))
		var length [2]byte
		binary.LittleEndian.PutUint16(length[:], uint16(size))
		_, err := w.Write(length[:])
		for _, part := range packet.AsSlices() {
			w.Write(part) // the error of a bufio.Writer stays
		}
		if e.pcap != nil {
			e.pcap.add(packet.ToView().AsSlice())
		}
		packet.DecRef()
		if e.link.NumQueued() == 0 {
			err = w.Flush()
		}
		if err != nil {
			return
		}
	}
}

// notice records what the enclave says its rules refused: a reason, how often, and the first destination.
// The words come from the enclave.
func (e *enclave) notice(line string) {
	reason, rest, _ := strings.Cut(line, " ")
	number, text, _ := strings.Cut(rest, " ")
	count, err := strconv.Atoi(number)
	if err != nil || count < 1 || count > 1<<30 || !printable(line) {
		return
	}
	e.notices.Lock()
	if _, ok := e.refused[reason]; ok || len(e.refused) < maxReasons {
		e.refused[reason] += count
		e.last = reason + ": " + text
	}
	e.notices.Unlock()
	e.event(Event{Kind: Refused, CID: e.cid, Reason: reason, Count: count, Text: text})
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) < 0
}

// Status is the state of a server, as neb net status prints it.
type Status struct {
	Enclaves  []EnclaveStatus `json:"enclaves"`
	Published []string        `json:"published"`
}

// EnclaveStatus is the state of one enclave's network.
type EnclaveStatus struct {
	CID         uint32         `json:"cid"`
	Since       time.Time      `json:"since"`
	Received    int64          `json:"received"` // bytes of frames from the enclave
	Sent        int64          `json:"sent"`     // bytes of frames to it
	TCP         FlowStatus     `json:"tcp"`
	UDP         FlowStatus     `json:"udp"`
	Refused     map[string]int `json:"refused"` // packets by reason, as the enclave reports them
	LastRefused string         `json:"last_refused,omitempty"`
}

// FlowStatus counts connections.
type FlowStatus struct {
	Open     int64 `json:"open"`
	Total    int64 `json:"total"`
	Rejected int64 `json:"rejected"` // beyond the limit of open ones
}

// Status returns the state of the server.
func (s *Server) Status() Status {
	status := Status{Enclaves: []EnclaveStatus{}, Published: []string{}}
	for _, p := range s.cfg.Publish {
		status.Published = append(status.Published, p.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for cid, e := range s.enclaves {
		one := EnclaveStatus{CID: cid, Since: e.since.UTC().Truncate(time.Second),
			Received: e.in.Load(), Sent: e.out.Load(), TCP: e.tcp.status(), UDP: e.udp.status(),
			Refused: map[string]int{}}
		e.notices.Lock()
		for reason, n := range e.refused {
			one.Refused[reason] = n
		}
		one.LastRefused = e.last
		e.notices.Unlock()
		status.Enclaves = append(status.Enclaves, one)
	}
	return status
}

func (f *flows) status() FlowStatus {
	return FlowStatus{Open: f.open.Load(), Total: f.total.Load(), Rejected: f.rejected.Load()}
}
