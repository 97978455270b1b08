package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
)

// CIDs with a meaning of their own.
const (
	HostCID   = 2 // the host of an ordinary virtual machine; on EC2 nobody answers there
	ParentCID = 3 // the parent instance, as an enclave sees it
)

// A Handler serves one connection that the enclave opened. It calls [Conn.Accept], or returns to refuse. The
// connection is closed when it returns. ctx ends when the device is closed and [Config].Grace is over.
type Handler func(ctx context.Context, c *Conn)

// Config describes a device. The zero value of each field has a meaning.
type Config struct {
	// CID is the enclave's own address; 0 means 16, and 1 to 3 are refused.
	CID uint32
	// AllowHostCID makes the device answer for CID 2 as it does for CID 3.
	AllowHostCID bool
	// Handlers serve the parent's ports. Connections to other ports are refused.
	Handlers map[uint32]Handler
	// MaxConns limits the connections of the enclave at a time, 0 means 2048. Further ones are refused. A
	// connection counts until its handler has returned and the enclave has confirmed its end.
	MaxConns int
	// Grace is how long handlers may continue after the device is closed. Their connections are reset then,
	// but what was received can be read.
	Grace time.Duration
	// PushBack makes the device stop receiving while its own packets wait for the enclave to receive them, as
	// the parent's Linux driver does. Tests use it to provoke the deadlock of two drivers that both do so.
	PushBack bool
	// Report is called for each event, by several goroutines, with the device locked: it must return at once
	// and not call the device. It may be nil.
	Report func(Event)
}

// An Event is something that happened to a device. The kinds that the enclave can cause at will are reported
// once for each address.
type Event struct {
	Kind EventKind
	Addr Addr  // for Refused and WrongCID: where the enclave wanted to go
	Err  error // for Broken and Failed
}

// EventKind is the kind of an event.
type EventKind int

// The kinds of events.
const (
	Started  EventKind = iota // the enclave's driver is ready
	Stopped                   // the enclave's driver or the whole enclave was reset, or QEMU has gone
	Refused                   // a connection to a port without a handler
	Full                      // a connection beyond MaxConns
	WrongCID                  // a connection to an address that is not the parent's
	Broken                    // the enclave's driver violated the specification; the device waits for a reset
	Failed                    // QEMU violated vhost-user; the device has ended
)

const (
	// budget limits what the enclave has sent and nobody has read, over all connections, in bytes, beyond
	// minWindow for each connection.
	budget    = 16 << 20
	minWindow = 4 << 10
	maxWindow = 256 << 10
	// maxChunks limits the buffers of ReadFrom that wait for the enclave.
	maxChunks = 64
	// maxResets is the number of waiting resets above which the device stops receiving. Those of open
	// connections can still be added.
	maxResets = 256
	// batch is the number of packets that are received before the lock is released.
	batch = 32
	// maxReported limits the number of events that are remembered as reported.
	maxReported = 64
	// FirstPort is the first port of our own connections. Handlers serve lower ports only.
	FirstPort = 1 << 31
)

const (
	queueRX = iota // to the enclave
	queueTX        // from the enclave
	queues
)

// A Device is one vhost-user vsock device. The lock of its vhost part guards
// all state.
type Device struct {
	cfg    Config
	vhost  *vhost.Device
	ctx    context.Context
	cancel context.CancelFunc // the device is closed
	grace  context.Context
	cut    context.CancelFunc // handlers have to return
	work   sync.WaitGroup
	chunks chan struct{}

	running  bool
	closed   bool          // no more work may begin
	started  chan struct{} // closed while running
	conns    map[key]*Conn
	ready    []*Conn // have something to send, the first comes next
	resets   []header
	stalled  bool          // the enclave's packets wait until ours have gone
	serving  int           // connections of the enclave that count against MaxConns
	closing  time.Duration // closeTimeout, except in tests
	budget   int
	nextPort uint32
	reported map[Event]bool
	taken    [queues]vhost.Buffer // each queue has its own, because a packet taken from one may send others
}

// New makes a device. [Device.Connect] connects it to QEMU.
func New(cfg Config) (*Device, error) {
	if cfg.CID == 0 {
		cfg.CID = 16
	}
	if cfg.CID <= ParentCID || cfg.CID == 1<<32-1 {
		return nil, fmt.Errorf("invalid CID %d of an enclave: expected 4 to 4294967294", cfg.CID)
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 2048
	}
	return newDevice(cfg), nil
}

// Connect returns QEMU's end of a connection to the device, see [vhost.Device.Connect].
func (d *Device) Connect() (*os.File, error) { return d.vhost.Connect() }

func newDevice(cfg Config) *Device {
	d := &Device{
		cfg: cfg, budget: budget, closing: closeTimeout, nextPort: FirstPort,
		conns: map[key]*Conn{}, reported: map[Event]bool{},
		started: make(chan struct{}), chunks: make(chan struct{}, maxChunks),
	}
	d.vhost = vhost.New(vhost.Config{
		Queues:      []string{queueRX: "receive", queueTX: "transmit"},
		OtherQueues: 1, // events, of which there are none
		Space:       binary.LittleEndian.AppendUint64(nil, uint64(cfg.CID)),
		Handler:     (*rings)(d),
	})
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.grace, d.cut = context.WithCancel(context.Background())
	return d
}

// Close closes the device: all connections, and after [Config].Grace the context of all handlers.
// It waits for the handlers to return.
func (d *Device) Close() error {
	d.vhost.Lock()
	d.closed = true
	d.vhost.Unlock()
	d.vhost.Close()
	d.cancel()
	cut := time.AfterFunc(d.cfg.Grace, d.cut)
	defer cut.Stop()
	d.work.Wait()
	return nil
}

// Cut ends [Config.Grace] at once, before Close or during it.
func (d *Device) Cut() { d.cut() }

// Go runs f in a goroutine, like a handler: Close waits for it, and its ctx ends like theirs. If the device
// is closed Go does nothing and returns false.
func (d *Device) Go(f func(ctx context.Context)) bool {
	d.vhost.Lock()
	defer d.vhost.Unlock()
	if d.closed {
		return false
	}
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		f(d.grace)
	}()
	return true
}

// Dial opens a connection to a port of the enclave. It waits until the enclave's driver is ready and its
// application answers, and fails with ECONNREFUSED if nobody listens on the port.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{d.cfg.CID, port}, Err: err}
	}
	d.vhost.Lock()
	defer d.vhost.Unlock()
	for !d.running {
		started := d.started
		d.vhost.Unlock()
		var err error
		select {
		case <-started:
		case <-ctx.Done():
			err = ctx.Err()
		case <-d.ctx.Done():
			err = net.ErrClosed
		}
		d.vhost.Lock()
		if err != nil {
			return fail(err)
		}
	}
	k := key{cid: ParentCID, peer: port}
	for {
		k.port = d.nextPort
		if d.nextPort++; d.nextPort < FirstPort {
			d.nextPort = FirstPort
		}
		if d.conns[k] == nil {
			break
		}
	}
	c := d.newConn(k)
	stop := context.AfterFunc(ctx, func() {
		d.vhost.Lock()
		c.changed.Broadcast()
		d.vhost.Unlock()
	})
	defer stop()
	c.tell(sayRequest)
	for {
		switch {
		case c.opened: // and may be dead already: Read returns what it has sent
			return c, nil
		case c.state == dead:
			c.closed = true
			c.release()
			if errors.Is(c.err, syscall.ECONNRESET) && d.running {
				return fail(syscall.ECONNREFUSED)
			}
			return fail(c.err)
		case ctx.Err() != nil:
			c.closed = true
			c.reset(nil)
			return fail(ctx.Err())
		}
		c.changed.Wait()
	}
}

// grant returns by how much a connection's receive buffer grows, and takes that from the budget. The more
// connections there are, the less each gets, but at least minWindow.
func (d *Device) grant(has uint32) uint32 {
	want := min(max(d.budget/64, 0), maxWindow) &^ (minWindow - 1)
	if has == 0 {
		want = max(want, minWindow)
	}
	if want <= int(has) {
		return 0
	}
	d.budget -= want - int(has)
	return uint32(want) - has
}

func (d *Device) report(e Event) {
	if d.cfg.Report == nil {
		return
	}
	switch e.Kind {
	case Refused, Full, WrongCID:
		if d.reported[e] || len(d.reported) >= maxReported {
			return
		}
		d.reported[e] = true
	}
	d.cfg.Report(e)
}

// rings is the device as its queues see it.
type rings Device

// Start reports that the enclave's driver is ready.
func (r *rings) Start() {
	r.running = true
	close(r.started)
	(*Device)(r).report(Event{Kind: Started})
}

// Kick sends or receives packets.
func (r *rings) Kick(queue int) (again bool) {
	if queue == queueTX {
		return (*Device)(r).drain()
	}
	(*Device)(r).pump()
	return false
}

// Stop ends all connections. What the enclave has sent before counts.
func (r *rings) Stop() {
	d := (*Device)(r)
	d.drainLast()
	d.running, d.stalled, d.started = false, false, make(chan struct{})
	d.resets = nil
	for _, c := range d.conns {
		c.die(syscall.ECONNRESET)
	}
	d.report(Event{Kind: Stopped})
}

// Broken reports the error.
func (r *rings) Broken(err error) { (*Device)(r).report(Event{Kind: Broken, Err: err}) }

// Failed reports the error.
func (r *rings) Failed(err error) { (*Device)(r).report(Event{Kind: Failed, Err: err}) }

// pump sends the packets of the connections, in turn, while the enclave provides buffers.
func (d *Device) pump() {
	q, b := d.vhost.Queue(queueRX), &d.taken[queueRX]
	for (len(d.resets) > 0 || len(d.ready) > 0) && q.Take(b) {
		room := b.Room() - headerSize
		if b.Len() > 0 || room <= 0 {
			q.Fail(fmt.Errorf("receive buffer has %d bytes to write and %d to read, expected more than %d "+
				"and 0",
				b.Room(), b.Len(), headerSize))
			break
		}
		var h header
		payload, ok := d.nextPacket(&h, min(room, maxPayload))
		if !ok {
			q.Untake()
			break
		}
		var raw [headerSize]byte
		h.encode(raw[:])
		b.Write(raw[:])
		b.Write(payload)
		q.Give(b)
	}
	q.Notify()
	if d.stalled && !d.mustWait() {
		d.stalled = false
		d.vhost.Queue(queueTX).Wake()
	}
}

// nextPacket returns the next packet for the enclave, with at most room bytes of payload.
func (d *Device) nextPacket(h *header, room int) (payload []byte, ok bool) {
	if n := len(d.resets); n > 0 {
		*h = d.resets[0]
		copy(d.resets, d.resets[1:])
		d.resets = d.resets[:n-1]
		return nil, true
	}
	for len(d.ready) > 0 {
		c := d.ready[0]
		d.ready[0], d.ready = nil, d.ready[1:]
		c.queued = false
		if payload, ok = c.emit(h, room); ok {
			if c.hasMore() {
				c.queued = true
				d.ready = append(d.ready, c)
			}
			return payload, true
		}
	}
	return nil, false
}

// mustWait reports whether the device must send before it receives more.
func (d *Device) mustWait() bool {
	return len(d.resets) >= maxResets || d.cfg.PushBack && len(d.resets)+len(d.ready) > 0
}

// drain receives a batch of packets from the enclave and returns whether there may be more.
func (d *Device) drain() bool {
	q, b := d.vhost.Queue(queueTX), &d.taken[queueTX]
	defer q.Notify()
	for range batch {
		if d.mustWait() {
			d.stalled = true
			return false
		}
		if !q.Take(b) {
			return false
		}
		d.packet(b)
		q.Give(b)
	}
	return true
}

// drainLast receives what is in the enclave's ring when it ends, and no more: an enclave that only resets its
// device may go on to fill it.
func (d *Device) drainLast() {
	d.resets = nil // nobody waits for them any more, and they must not delay this
	n := d.vhost.Queue(queueTX).Available()
	for taken := 0; taken < n && d.drain(); {
		taken += batch
	}
}

// packet handles one packet of the enclave. It ignores one that is too short for its header or not from the
// enclave's address: nobody could receive the answer.
func (d *Device) packet(b *vhost.Buffer) {
	var raw [headerSize]byte
	if n, _ := b.Read(raw[:]); n < headerSize {
		return
	}
	var h header
	h.decode(raw[:])
	if h.srcCID != uint64(d.cfg.CID) {
		return
	}
	if h.typ != typeStream {
		d.reset(&h)
		return
	}
	if h.dstCID != ParentCID && (h.dstCID != HostCID || !d.cfg.AllowHostCID) {
		if h.op == opRequest {
			d.report(Event{Kind: WrongCID, Addr: Addr{uint32(min(h.dstCID, 1<<32-1)), h.dstPort}})
		}
		d.reset(&h)
		return
	}
	k := key{cid: uint32(h.dstCID), port: h.dstPort, peer: h.srcPort}
	if conn := d.conns[k]; conn != nil {
		// Data of a wrong length cannot be left out of a stream.
		bad := h.op == opData && (h.len > maxPayload || int(h.len) > b.Len())
		if bad || !conn.receive(&h, b) {
			conn.reset(syscall.EPROTO)
		}
		return
	}
	if h.op != opRequest {
		d.reset(&h)
		return
	}
	handler := d.cfg.Handlers[h.dstPort]
	switch {
	case handler == nil || h.dstPort >= FirstPort:
		d.report(Event{Kind: Refused, Addr: Addr{k.cid, k.port}})
		d.reset(&h)
		return
	case d.serving >= d.cfg.MaxConns:
		d.report(Event{Kind: Full})
		d.reset(&h)
		return
	}
	conn := d.newConn(k)
	conn.peerBuf, conn.peerDone = h.bufAlloc, h.fwdCnt
	d.serving++
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		handler(d.grace, conn)
		conn.Close()
		d.vhost.Lock()
		defer d.vhost.Unlock()
		conn.served = true
		if conn.state == dead {
			d.serving--
		}
	}()
}

// reset answers a packet that belongs to no connection.
func (d *Device) reset(h *header) {
	if h.op == opReset {
		return
	}
	d.sayReset(header{srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort, typ: h.typ})
}

// sayReset queues a reset with the addresses of h, and sends what can be sent.
func (d *Device) sayReset(h header) {
	h.op = opReset
	d.resets = append(d.resets, h)
	d.pump()
}
