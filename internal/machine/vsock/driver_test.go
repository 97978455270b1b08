package vsock

import (
	"bytes"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
)

// A driver is QEMU and the enclave's driver of a vsock device, for tests.
type driver struct {
	*virtio.Driver
	t testing.TB
	d *Device
}

const (
	testCID    = 16
	bufferSize = 4096 - 320 // what Linux posts, about
	patience   = time.Minute
)

// newDriver starts a device with the given configuration and a driver for it, with rings of size descriptors.
func newDriver(t testing.TB, cfg Config, size int) *driver {
	t.Helper()
	cfg.CID = testCID
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	g := &driver{virtio.New(t, d.Connect, queues, size), t, d}
	if space := g.Config(8); space[0] != testCID {
		t.Fatalf("configuration space %x, want CID %d", space, testCID)
	}
	return g
}

// fillRX gives the device all receive buffers that are free.
func (g *driver) fillRX() {
	q := g.Queues[queueRX]
	for _, n := range q.Free {
		g.Describe(q, n, uint64(q.Data+virtio.BufferSize*n), bufferSize, virtio.DescWrite, 0)
		g.Offer(q, n)
	}
	q.Free = nil
}

// recv waits for a packet from the device and gives the buffer back.
func (g *driver) recv() (header, []byte) {
	g.t.Helper()
	h, data, ok := g.tryRecv(patience)
	if !ok {
		g.t.Fatal("no packet from the device")
	}
	return h, data
}

func (g *driver) tryRecv(wait time.Duration) (h header, data []byte, ok bool) {
	q := g.Queues[queueRX]
	n, size, ok := g.UsedBuffer(q, wait)
	if !ok {
		return h, nil, false
	}
	at := q.Data + virtio.BufferSize*n
	h.decode(g.Mem[at:])
	data = bytes.Clone(g.Mem[at+headerSize : at+size])
	q.Free = append(q.Free, n)
	g.fillRX()
	return h, data, true
}

// expect waits for a packet with the given operation.
func (g *driver) expect(op uint16) (header, []byte) {
	g.t.Helper()
	h, data := g.recv()
	if h.op != op {
		g.t.Fatalf("got %+v, want operation %d", h, op)
	}
	return h, data
}

// send gives the device a packet and waits until it was taken.
func (g *driver) send(h header, payload []byte) {
	g.t.Helper()
	if !g.trySend(h, payload, patience) {
		g.t.Fatalf("packet %+v was not taken", h)
	}
}

// trySend gives the device a packet and says whether it took it in time. One that was not taken stays where
// it is.
func (g *driver) trySend(h header, payload []byte, wait time.Duration) bool {
	q := g.Queues[queueTX]
	a, b := q.Free[0], q.Free[1]
	q.Free = q.Free[2:]
	h.len = uint32(len(payload))
	h.encode(g.Mem[q.Data+virtio.BufferSize*a:])
	copy(g.Mem[q.Data+virtio.BufferSize*b:], payload)
	flags := uint16(0)
	if len(payload) > 0 {
		flags = virtio.DescNext
	}
	g.Describe(q, a, uint64(q.Data+virtio.BufferSize*a), headerSize, flags, uint16(b))
	g.Describe(q, b, uint64(q.Data+virtio.BufferSize*b), uint32(len(payload)), 0, 0)
	g.Offer(q, a)
	head, _, ok := g.UsedBuffer(q, wait)
	if ok {
		if head != a {
			g.t.Fatalf("descriptor %d was given, %d came back", a, head)
		}
		q.Free = append(q.Free, a, b)
	}
	return ok
}

// from is a header of a packet of the enclave.
func from(port, to uint32, op uint16) header {
	return header{srcCID: testCID, dstCID: ParentCID, srcPort: port, dstPort: to, typ: typeStream, op: op,
		bufAlloc: 256 << 10}
}
