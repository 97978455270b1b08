package vsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"unsafe"
)

// FuzzRing gives the device rings and memory that are all noise: it must take and return buffers, or say that the ring is broken, and touch nothing
// outside of the memory.
func FuzzRing(f *testing.F) {
	const most = 8
	// A good ring with one packet, an indirect one, and a loop.
	good := make([]byte, 512)
	binary.LittleEndian.PutUint64(good, 256)
	binary.LittleEndian.PutUint32(good[8:], headerSize)
	good[most*descSize+2] = 1
	f.Add(good)
	indirect := bytes.Clone(good)
	binary.LittleEndian.PutUint32(indirect[8:], 32)
	indirect[12] = descIndirect
	f.Add(indirect)
	loop := bytes.Clone(good)
	loop[12] = descNext
	f.Add(loop)
	f.Add(bytes.Repeat([]byte{0xff}, 512))
	f.Add(good[:511]) // a ring of one descriptor

	f.Fuzz(func(t *testing.T, data []byte) {
		mem := aligned(1024)
		copy(mem, data)
		guest := memory{{guest: 0, user: userBase, data: mem[:512]}, {guest: 512, user: userBase + 512, data: mem[512:]}}
		d := newDevice(Config{CID: testCID, MaxConns: 4, Handlers: map[uint32]Handler{7: echo}})
		d.mem = guest
		size := most >> (len(data) % 4)
		avail := size * descSize
		used := (avail + availSize(size) + 3) &^ 3 // as a driver aligns it; the ring of one descriptor needs that
		for i := range d.queue[:queueEvents] {
			q := &d.queue[i]
			q.size = uint16(size)
			q.eventIdx = len(data)%8 < 4
			q.kick = eventfd(t)
			if err := q.place(mem[:avail], mem[avail:used], mem[used:used+usedSize(size)]); err != nil {
				t.Fatal(err)
			}
		}
		d.mu.Lock()
		d.running = true
		for range 3 {
			d.drain()
			d.reset(&header{op: opData})
			d.pump()
		}
		if len(d.resets) > maxResets || len(d.conns) > 4 {
			t.Errorf("%d resets, %d connections", len(d.resets), len(d.conns))
		}
		d.stop()
		d.mu.Unlock()
		d.cancel()
		d.work.Wait()
	})
}

// aligned makes memory whose first byte has an address that can be divided by 16, as pages have.
func aligned(n int) []byte {
	b := make([]byte, n+16)
	return b[16-uintptr(unsafe.Pointer(&b[0]))%16:][:n:n]
}

// FuzzPackets lets the enclave send any sequence of packets: whatever they say, the device keeps within its bounds, and a well-behaved connection
// afterwards works.
func FuzzPackets(f *testing.F) {
	// Each packet is 16 bytes: which addresses, ports, type and operation; flags; length; credit.
	packet := func(b ...byte) []byte { return append(b, make([]byte, 16-len(b))...) }
	f.Add(bytes.Join([][]byte{packet(0, 0, 0, opRequest), packet(0, 0, 0, opData, 0, 200), packet(0, 0, 0, opShutdown, 3)}, nil))
	f.Add(bytes.Join([][]byte{packet(0, 0, 0, opRequest), packet(0, 0, 0, opRequest), packet(0, 0, 0, opReset)}, nil))
	f.Add(bytes.Join([][]byte{packet(0, 1, 0, opRequest), packet(0, 1, 0, opCreditUpdate, 0, 0, 0xff, 0xff), packet(0, 1, 0, opData, 0, 1)}, nil))
	f.Add(bytes.Join([][]byte{packet(1, 0, 0, opRequest), packet(2, 0, 1, opRequest), packet(3, 0, 2, 99)}, nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		d := newDevice(Config{CID: testCID, MaxConns: 4, Handlers: map[uint32]Handler{7: echo, 8: func(_ context.Context, c *Conn) {
			c.Accept()
			<-c.Context().Done()
		}}})
		d.mu.Lock()
		for len(script) >= 16 && len(d.resets) < maxResets {
			b := script[:16]
			script = script[16:]
			h := header{
				srcCID: []uint64{testCID, testCID, testCID, 99}[b[0]%4], dstCID: []uint64{ParentCID, HostCID, 1 << 33, ParentCID}[b[0]%4],
				srcPort: uint32(b[1] % 8), dstPort: []uint32{7, 8, 9, FirstPort}[b[1]>>3%4],
				typ: []uint16{typeStream, 2, 3, 0}[b[2]%4], op: uint16(b[3]), flags: uint32(b[4]),
				len: uint32(b[5]) << (b[8] % 16), bufAlloc: uint32(b[6])<<24 | uint32(b[7]), fwdCnt: binary.LittleEndian.Uint32(b[12:]),
			}
			payload := make([]byte, min(h.len, uint32(b[9])<<8))
			raw := make([]byte, headerSize)
			h.encode(raw)
			c := chain{out: [][]byte{raw}, outLen: uint64(headerSize + len(payload))}
			if len(payload) > 0 {
				c.out = append(c.out, payload)
			}
			d.packet(&c)
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
			d.mu.Unlock()
			d.mu.Lock()
		}
		d.stop()
		d.mu.Unlock()
		d.cancel()
		d.work.Wait()
		if d.budget != budget {
			t.Errorf("%d bytes of the budget are left, of %d", d.budget, budget)
		}
	})
}

// FuzzFrontend sends the device any message of a front end. QEMU is trusted, but a crash of ours should not be its fault.
func FuzzFrontend(f *testing.F) {
	f.Add(uint32(msgSetMemTable), append(words(1, 0), make([]byte, 32)...))
	f.Add(uint32(msgGetConfig), words(4, 8, 0))
	f.Add(uint32(msgSetVringNum), words(0, 3))
	f.Add(uint32(msgSetVringAddr), make([]byte, 40))
	f.Add(uint32(msgGetVringBase), words(1, 0))
	f.Fuzz(func(t *testing.T, request uint32, payload []byte) {
		d := newDevice(Config{CID: testCID})
		d.mem = memory{{guest: 0, user: 0, data: aligned(4096)}}
		fe := frontend{d: d}
		fe.handle(&message{request: msgSetVringNum, payload: words(0, 8)})
		fe.handle(&message{request: request, payload: payload})
		fe.handle(&message{request: msgSetVringAddr, payload: append(words(0, 0), payload...)})
		d.mu.Lock()
		d.mem = nil
		d.forget()
		d.mu.Unlock()
		d.cancel()
	})
}
