package vsock

import (
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
)

// A Guest is a driver for the tests of what stands on a device, which are outside of this package.
type Guest struct{ *driver }

// The operations that such tests look at.
const (
	OpRequest  = opRequest
	OpResponse = opResponse
	OpReset    = opReset
	OpShutdown = opShutdown
	OpData     = opData
)

// NewGuest starts a device and a driver with receive buffers.
func NewGuest(t testing.TB, cfg Config) *Guest {
	g := newDriver(t, cfg, 64)
	g.fillRX()
	return &Guest{g}
}

// Device is the guest's device.
func (g *Guest) Device() *Device { return g.d }

// Say sends a packet from one port of the enclave to one of the parent.
func (g *Guest) Say(port, to uint32, op uint16, flags uint32, data []byte) {
	g.t.Helper()
	h := from(port, to, op)
	h.flags = flags
	g.send(h, data)
}

// Put puts data and a shutdown of both sides into the ring without telling the device.
func (g *Guest) Put(port, to uint32, data []byte) {
	q := g.Queues[queueTX]
	for _, op := range []uint16{opData, opShutdown} {
		h := from(port, to, op)
		if op == opData {
			h.len = uint32(len(data))
		} else {
			h.flags = shutdownBoth
		}
		n := q.Free[0]
		q.Free = q.Free[1:]
		at := q.Data + virtio.BufferSize*n
		h.encode(g.Mem[at:])
		copy(g.Mem[at+headerSize:], data)
		g.Describe(q, n, uint64(at), headerSize+h.len, 0, 0)
		g.Add(q, n)
	}
	g.Publish(q)
}

// Hear waits for a packet with the given operation and returns the parent's port and the payload. Credit
// updates are left out.
func (g *Guest) Hear(op uint16) (port uint32, data []byte) {
	g.t.Helper()
	for {
		h, data := g.recv()
		if h.op == opCreditUpdate && op != opCreditUpdate {
			continue
		}
		if h.op != op {
			g.t.Fatalf("got %+v, want operation %d", h, op)
		}
		return h.srcPort, data
	}
}

// Next waits for a packet of any operation.
func (g *Guest) Next() (op uint16, data []byte) {
	g.t.Helper()
	h, data := g.recv()
	return h.op, data
}

// Vanish is the end of QEMU.
func (g *Guest) Vanish() { g.Close() }

// Reboot is QEMU's reset of the device.
func (g *Guest) Reboot() { g.Reset() }
