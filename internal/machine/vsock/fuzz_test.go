package vsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
)

// FuzzPackets lets the enclave send any sequence of packets: whatever they say, the device keeps within its
// bounds, and a well-behaved connection afterwards works.
func FuzzPackets(f *testing.F) {
	// Each packet is 16 bytes: which addresses, ports, type and operation; flags; length; credit.
	packet := func(b ...byte) []byte { return append(b, make([]byte, 16-len(b))...) }
	f.Add(bytes.Join([][]byte{packet(0, 0, 0, opRequest), packet(0, 0, 0, opData, 0, 200),
		packet(0, 0, 0, opShutdown, 3)}, nil))
	f.Add(bytes.Join([][]byte{packet(0, 0, 0, opRequest), packet(0, 0, 0, opRequest),
		packet(0, 0, 0, opReset)}, nil))
	f.Add(bytes.Join([][]byte{packet(0, 1, 0, opRequest), packet(0, 1, 0, opCreditUpdate, 0, 0, 0xff, 0xff),
		packet(0, 1, 0, opData, 0, 1)}, nil))
	f.Add(bytes.Join([][]byte{packet(1, 0, 0, opRequest), packet(2, 0, 1, opRequest), packet(3, 0, 2, 99)},
		nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		d := newDevice(Config{CID: testCID, MaxConns: 4,
			Handlers: map[uint32]Handler{7: echo, 8: func(_ context.Context, c *Conn) {
				c.Accept()
				<-c.Context().Done()
			}}})
		d.vhost.Lock()
		for len(script) >= 16 && len(d.resets) < maxResets {
			b := script[:16]
			script = script[16:]
			h := header{
				srcCID:  []uint64{testCID, testCID, testCID, 99}[b[0]%4],
				dstCID:  []uint64{ParentCID, HostCID, 1 << 33, ParentCID}[b[0]%4],
				srcPort: uint32(b[1] % 8), dstPort: []uint32{7, 8, 9, FirstPort}[b[1]>>3%4],
				typ: []uint16{typeStream, 2, 3, 0}[b[2]%4], op: uint16(b[3]), flags: uint32(b[4]),
				len: uint32(b[5]) << (b[8] % 16), bufAlloc: uint32(b[6])<<24 | uint32(b[7]),
				fwdCnt: binary.LittleEndian.Uint32(b[12:]),
			}
			payload := make([]byte, min(h.len, uint32(b[9])<<8))
			raw := make([]byte, headerSize)
			h.encode(raw)
			buf := vhost.Buffer{Out: [][]byte{raw}}
			if len(payload) > 0 {
				buf.Out = append(buf.Out, payload)
			}
			d.packet(&buf)
			if d.serving > 4 || d.budget < -4*minWindow {
				t.Errorf("%d handlers, budget %d", d.serving, d.budget)
			}
			kept := 0
			for _, c := range d.conns {
				for _, chunk := range c.in {
					kept += cap(chunk.data)
				}
			}
			if kept > 4*2*maxWindow {
				t.Errorf("%d bytes are kept for %d connections", kept, len(d.conns))
			}
			// Handlers get a turn.
			d.vhost.Unlock()
			d.vhost.Lock()
		}
		(*rings)(d).Stop()
		d.vhost.Unlock()
		d.cancel()
		d.work.Wait()
		if d.budget != budget {
			t.Errorf("%d bytes of the budget are left, of %d", d.budget, budget)
		}
	})
}
