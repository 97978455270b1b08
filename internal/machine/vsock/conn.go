package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
)

// Addr is an address of vsock: the enclave's or the parent's CID and a port.
type Addr struct{ CID, Port uint32 }

// Network returns "vsock".
func (Addr) Network() string { return "vsock" }

// String returns CID:PORT.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// A key identifies a connection. It has the parent's CID, because a device may answer for CID 2 as well.
type key struct{ cid, port, peer uint32 }

// What a connection has to say to the enclave, besides data.
const (
	sayRequest = 1 << iota
	sayResponse
	sayShutdown
	sayCredit
)

type state uint8

const (
	waiting state = iota // for the enclave's answer (Dial), or for the handler's Accept
	open
	dead // unknown to the device; what was received can still be read
)

// A Conn is one stream between the parent and the enclave. Its methods may be called by several goroutines.
type Conn struct {
	d   *Device
	key key
	ctx context.Context // ends when the connection is dead
	end context.CancelFunc

	writing sync.Mutex // one Write at a time

	// The rest is guarded by the device's lock; changed is signalled at every change of it.
	changed sync.Cond
	state   state
	opened  bool  // the enclave has answered Dial
	err     error // why the connection died, where it was not in peace
	closed  bool  // Close was called
	served  bool  // its handler has returned
	say     uint8
	queued  bool // in d.ready

	// From the enclave to us. granted is the buffer that the enclave was told about, received and taken count
	// bytes ever, told and window are the values of taken and granted that the enclave knows.
	in                       []chunk
	granted, window          uint32
	received, taken, told    uint32
	shutByPeer, shutByUs     uint8
	shutTold                 uint8
	readDeadline, writeLimit deadline
	ending                   *time.Timer // resets a connection that only we have closed

	// From us to the enclave: what a Write waits to get rid of, bytes sent ever, and the enclave's last word
	// about its buffer.
	out               []byte
	sent              uint32
	peerBuf, peerDone uint32
}

// A chunk is a part of what the enclave sent. Bytes from off to len(data) are not read yet.
type chunk struct {
	data []byte
	off  int
}

// Chunks come in powers of two from 4 KiB to 64 KiB, and are used again: a connection that was read empty
// holds none.
const (
	minChunk = 12
	maxChunk = 16
)

var chunkPools [maxChunk - minChunk + 1]sync.Pool

func newChunk(n int) []byte {
	class := max(bits.Len(uint(n-1)), minChunk) - minChunk
	if b, ok := chunkPools[class].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<(class+minChunk))
}

func freeChunk(b []byte) {
	b = b[:0]
	chunkPools[bits.Len(uint(cap(b)-1))-minChunk].Put(&b)
}

// A deadline wakes those who wait for a connection when its time comes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (t *deadline) passed() bool { return !t.at.IsZero() && !time.Now().Before(t.at) }

func (t *deadline) set(c *Conn, at time.Time) {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	t.at = at
	if !at.IsZero() {
		t.timer = time.AfterFunc(time.Until(at), func() {
			c.d.vhost.Lock()
			c.changed.Broadcast()
			c.d.vhost.Unlock()
		})
	}
}

func (d *Device) newConn(k key) *Conn {
	c := &Conn{d: d, key: k}
	c.changed.L = d.vhost
	c.ctx, c.end = context.WithCancel(d.ctx)
	c.granted = d.grant(0)
	d.conns[k] = c
	return c
}

// LocalAddr returns the parent's address.
func (c *Conn) LocalAddr() net.Addr { return Addr{c.key.cid, c.key.port} }

// RemoteAddr returns the enclave's address.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.d.cfg.CID, c.key.peer} }

// Context ends when the connection has ended for the enclave: closed by it, reset, or the enclave itself
// reset. What was received before can still be read.
func (c *Conn) Context() context.Context { return c.ctx }

// Accept accepts the enclave's connection. A [Handler] calls it before it reads or writes; a Handler that
// returns without it refuses the connection, and the enclave's connect fails with ECONNRESET.
func (c *Conn) Accept() error {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if c.state == dead || c.closed {
		return c.failure("accept")
	}
	if c.state == waiting {
		c.state = open
		c.tell(sayResponse)
	}
	return nil
}

// failure returns the error of an operation on a connection that has ended.
func (c *Conn) failure(op string) error {
	err := c.err
	if err == nil || c.closed {
		err = net.ErrClosed
	}
	return c.opError(op, err)
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// cannotSend reports whether either side has shut down the direction to the enclave.
func (c *Conn) cannotSend() bool {
	return c.shutByUs&shutdownSend != 0 || c.shutByPeer&shutdownReceive != 0
}

// Read reads what the enclave sent. It returns [io.EOF] when the enclave has shut down its side, and
// ECONNRESET after what was received when the connection was reset.
func (c *Conn) Read(p []byte) (int, error) {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.waitReadable(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) && len(c.in) > 0 {
		first := &c.in[0]
		m := copy(p[n:], first.data[first.off:])
		n += m
		first.off += m
		if first.off == len(first.data) {
			freeChunk(first.data)
			c.in = c.in[1:]
		}
	}
	c.took(n)
	return n, nil
}

// WriteTo writes what the enclave sends to w, until the enclave shuts down its side. It holds no buffer while
// it waits.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	for {
		if err := c.waitReadable(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		first := c.in[0]
		c.in = c.in[1:]
		c.d.vhost.Unlock()
		n, err := w.Write(first.data[first.off:])
		c.d.vhost.Lock()
		freeChunk(first.data)
		total += int64(n)
		// What w did not take is lost, and so is the connection for its caller: the enclave's credit does not
		// matter any more.
		c.took(n)
		if err != nil {
			return total, err
		}
	}
}

// waitReadable waits until c.in is not empty.
func (c *Conn) waitReadable() error {
	for {
		switch {
		case c.closed:
			return c.failure("read")
		case len(c.in) > 0:
			return nil
		case c.shutByPeer&shutdownSend != 0 || c.shutByUs&shutdownReceive != 0:
			return io.EOF
		case c.state == dead:
			return c.failure("read")
		case c.readDeadline.passed():
			return os.ErrDeadlineExceeded
		}
		c.changed.Wait()
	}
}

// took accounts for n bytes that were read, and sends a credit update if the enclave may be waiting for it.
func (c *Conn) took(n int) {
	if len(c.in) == 0 {
		c.in = nil
	}
	c.taken += uint32(n)
	if c.state != open || c.shutByPeer&shutdownSend != 0 {
		return
	}
	c.granted += c.d.grant(c.granted)
	// A quarter of the buffer is a compromise between packets that carry nothing else and an enclave that
	// stands still. It is the buffer that the enclave knows of: what was granted since may be so much more
	// that it never gets there.
	if c.taken-c.told >= c.window/4 {
		c.tell(sayCredit)
	}
}

// Write sends p to the enclave, as fast as the enclave's buffers allow, without copying it.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	c.out = p
	defer func() { c.out = nil }()
	for {
		switch {
		case len(c.out) == 0:
			return len(p), nil
		case c.closed, c.state == dead:
			return len(p) - len(c.out), c.failure("write")
		case c.state == waiting, c.cannotSend():
			return len(p) - len(c.out), c.opError("write", syscall.EPIPE)
		case c.writeLimit.passed():
			return len(p) - len(c.out), os.ErrDeadlineExceeded
		}
		if c.tell(0); len(c.out) > 0 {
			c.changed.Wait()
		}
	}
}

// ReadFrom sends what it reads from r until r ends. If r is a socket or pipe of the host it holds no buffer
// while it waits for r.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	raw, err := rawConn(r)
	if err != nil {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	var total int64
	for {
		// A read is as large as the enclave can take, so that a chunk waits for descriptors only, and for
		// those in turn.
		room, err := c.waitCredit()
		if err != nil {
			return total, err
		}
		var chunk []byte
		var n int
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			c.d.chunks <- struct{}{}
			chunk = newChunk(min(room, maxPayload))
			for {
				n, failed = syscall.Read(int(fd), chunk[:min(room, cap(chunk))])
				if failed != syscall.EINTR {
					break
				}
			}
			if n < 0 {
				n = 0
			}
			if failed == syscall.EAGAIN {
				freeChunk(chunk)
				<-c.d.chunks
				return false
			}
			return true
		})
		if err != nil {
			return total, err
		}
		if failed == nil && n > 0 {
			n, failed = c.Write(chunk[:n])
			total += int64(n)
		} else if failed == nil {
			failed = io.EOF
		}
		freeChunk(chunk)
		<-c.d.chunks
		if failed == io.EOF {
			return total, nil
		}
		if failed != nil {
			return total, failed
		}
	}
}

func rawConn(r io.Reader) (syscall.RawConn, error) {
	if s, ok := r.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// waitCredit waits until the enclave has room for data and returns its size in bytes.
func (c *Conn) waitCredit() (int, error) {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	for {
		switch {
		case c.closed, c.state == dead:
			return 0, c.failure("write")
		case c.cannotSend():
			return 0, c.opError("write", syscall.EPIPE)
		case c.writeLimit.passed():
			return 0, os.ErrDeadlineExceeded
		}
		if n := c.credit(); n > 0 {
			return n, nil
		}
		c.changed.Wait()
	}
}

// credit returns the number of bytes for which the enclave has room. If the enclave's numbers make no sense,
// only this connection stalls.
func (c *Conn) credit() int {
	return max(0, int(int64(c.peerBuf)-int64(c.sent-c.peerDone)))
}

// CloseWrite tells the enclave that nothing more will be sent. Reading continues.
func (c *Conn) CloseWrite() error {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if c.closed || c.state != open {
		return c.failure("close")
	}
	c.shut(shutdownSend)
	return nil
}

// CloseRead tells the enclave that nothing more will be read. Writing continues.
func (c *Conn) CloseRead() error {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if c.closed || c.state != open {
		return c.failure("close")
	}
	c.discard()
	c.shut(shutdownReceive)
	return nil
}

// discard drops what was received.
func (c *Conn) discard() {
	for _, chunk := range c.in {
		freeChunk(chunk.data)
	}
	c.in = nil
}

func (c *Conn) shut(how uint8) {
	c.shutByUs |= how
	c.changed.Broadcast()
	if c.shutByUs != c.shutTold {
		c.tell(sayShutdown)
	}
}

// closeTimeout is the time for the enclave to confirm a shutdown with a reset, as in Linux
// (VSOCK_CLOSE_TIMEOUT).
const closeTimeout = 8 * time.Second

// Close closes the connection in both directions. It drops what was received and not read; the enclave
// receives all for which Write has returned.
func (c *Conn) Close() error { return c.finish(false) }

// Abort closes the connection with a reset, which tells the enclave that the data in either direction is
// incomplete.
func (c *Conn) Abort() error { return c.finish(true) }

func (c *Conn) finish(abort bool) error {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if c.closed {
		return c.failure("close")
	}
	c.closed = true
	c.discard()
	c.readDeadline.set(c, time.Time{})
	c.writeLimit.set(c, time.Time{})
	c.changed.Broadcast()
	switch {
	case c.state == dead:
		c.release()
	case abort, c.state == waiting:
		c.reset(nil)
	default:
		c.shut(shutdownBoth)
		// The enclave answers with a reset as soon as its application has closed too. One that never does
		// must not keep a place.
		c.ending = time.AfterFunc(c.d.closing, func() {
			c.d.vhost.Lock()
			defer c.d.vhost.Unlock()
			if c.state != dead {
				c.reset(nil)
			}
		})
	}
	return nil
}

// reset ends a connection and tells the enclave, unless the enclave does not know it yet.
func (c *Conn) reset(err error) {
	known := c.say&sayRequest == 0
	c.die(err)
	if known {
		c.d.sayReset(c.header())
	}
}

// die removes the connection and its pending packets from the device, so that an enclave that opens and ends
// connections without receiving anything costs no memory.
func (c *Conn) die(err error) {
	if c.state == dead {
		return
	}
	c.state = dead
	c.err = err
	delete(c.d.conns, c.key)
	if c.queued {
		c.queued = false
		i := slices.Index(c.d.ready, c)
		c.d.ready = slices.Delete(c.d.ready, i, i+1)
	}
	c.end()
	if c.ending != nil {
		c.ending.Stop() // it holds the connection
	}
	if c.served {
		c.d.serving--
	}
	if c.closed {
		c.release()
	}
	c.changed.Broadcast()
}

// release returns the receive buffer to the budget.
func (c *Conn) release() {
	c.d.budget += int(c.granted)
	c.granted = 0
}

// SetDeadline sets both deadlines, as [net.Conn] has it.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the time at which Read fails with [os.ErrDeadlineExceeded].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readDeadline, t) }

// SetWriteDeadline sets the time at which Write fails with [os.ErrDeadlineExceeded].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeLimit, t) }

func (c *Conn) setDeadline(which *deadline, t time.Time) error {
	c.d.vhost.Lock()
	defer c.d.vhost.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	which.set(c, t)
	c.changed.Broadcast()
	return nil
}

// header returns the header of a packet to the enclave, without an operation.
func (c *Conn) header() header {
	return header{
		srcCID: uint64(c.key.cid), dstCID: uint64(c.d.cfg.CID), srcPort: c.key.port, dstPort: c.key.peer,
		typ: typeStream,
	}
}

// tell queues the connection for sending, what included, and sends what can be sent.
func (c *Conn) tell(what uint8) {
	c.say |= what
	if !c.queued {
		c.queued = true
		c.d.ready = append(c.d.ready, c)
	}
	c.d.pump()
}

// emit fills h with the next packet for the enclave and returns its payload of at most room bytes. It returns
// false if there is nothing to send now.
func (c *Conn) emit(h *header, room int) (payload []byte, ok bool) {
	*h = c.header()
	h.bufAlloc, h.fwdCnt = c.granted, c.taken
	said := func(what uint8, op uint16) {
		c.say &^= what
		h.op = op
	}
	switch {
	case c.say&sayRequest != 0:
		said(sayRequest, opRequest)
	case c.say&sayResponse != 0:
		said(sayResponse, opResponse)
	case len(c.out) > 0 && c.state == open && c.credit() > 0 && !c.cannotSend():
		n := min(len(c.out), c.credit(), room, maxPayload)
		payload, c.out = c.out[:n], c.out[n:]
		c.sent += uint32(n)
		h.op, h.len = opData, uint32(n)
		if len(c.out) == 0 {
			c.changed.Broadcast()
		}
	case c.say&sayShutdown != 0:
		said(sayShutdown, opShutdown)
		c.shutTold = c.shutByUs
		h.flags = uint32(c.shutTold)
	case c.say&sayCredit != 0:
		h.op = opCreditUpdate
	default:
		return nil, false
	}
	// Every packet carries the state of our buffer.
	c.say &^= sayCredit
	c.told, c.window = c.taken, c.granted
	return payload, true
}

// hasMore reports whether emit has something to send.
func (c *Conn) hasMore() bool {
	return c.say != 0 || len(c.out) > 0 && c.state == open && c.credit() > 0
}

// receive handles a packet of the enclave for this connection; b holds at least h.len bytes if it carries
// data. It returns false if the packet violates the protocol and the connection must be reset.
func (c *Conn) receive(h *header, b *vhost.Buffer) bool {
	c.peerBuf, c.peerDone = h.bufAlloc, h.fwdCnt
	switch h.op {
	case opRequest:
		// An application whose connect was interrupted by a signal calls once more, from the same port.
		if c.dialled() || c.received > 0 {
			return false
		}
		if c.state == open {
			c.tell(sayResponse)
		}
	case opResponse:
		if c.state != waiting || !c.dialled() {
			return false
		}
		c.state, c.opened = open, true
	case opReset:
		c.die(syscall.ECONNRESET)
		return true
	case opData:
		if c.state != open || c.shutByPeer&shutdownSend != 0 {
			return false
		}
		if c.closed || c.shutByUs&shutdownReceive != 0 {
			return true
		}
		if c.received+h.len-c.taken > c.granted {
			return false
		}
		c.received += h.len
		c.fill(int(h.len), b)
	case opShutdown:
		if c.state != open {
			return false
		}
		c.shutByPeer |= uint8(h.flags & shutdownBoth)
		if c.shutByPeer == shutdownBoth {
			// Both sides of the enclave's application are done: a reset confirms it. What was received stays
			// with us.
			c.reset(syscall.EPIPE)
			return true
		}
	case opCreditRequest:
		c.tell(sayCredit)
	case opCreditUpdate:
	default:
		return false
	}
	c.changed.Broadcast()
	if len(c.out) > 0 {
		c.tell(0)
	}
	return true
}

// dialled reports whether our side opened the connection.
func (c *Conn) dialled() bool { return c.key.port >= FirstPort }

// fill appends n bytes of b to what was received.
func (c *Conn) fill(n int, b *vhost.Buffer) {
	for n > 0 {
		part := b.Next(n)
		n -= len(part)
		if last := len(c.in) - 1; last >= 0 {
			m := min(cap(c.in[last].data)-len(c.in[last].data), len(part))
			c.in[last].data = append(c.in[last].data, part[:m]...)
			part = part[m:]
		}
		if len(part) > 0 {
			c.in = append(c.in, chunk{data: append(newChunk(len(part)+n), part...)})
		}
	}
}
