package vsock

import "testing"

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

// Hear waits for a packet with the given operation and returns the parent's port and the payload. Credit updates are left out.
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
