package vsock

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A driver is QEMU and the enclave's kernel in one, for tests: it speaks vhost-user to a device and fills the rings in
// shared memory. Its ring code shares nothing with the device's.
type driver struct {
	t    testing.TB
	d    *Device
	conn *net.UnixConn
	mem  []byte // all of the guest's memory, at guest address 0 and user address userBase
	file *os.File
	q    [2]*driverQueue
	more uint64 // features to negotiate beyond those that every driver wants
}

const (
	userBase   = 0x7f0000000000
	guestSize  = 4 << 20
	testCID    = 16
	bufferSize = 4096 - 320 // what Linux posts, about
)

type driverQueue struct {
	size              int
	desc, avail, used int // offsets in memory
	data              int // a buffer for each descriptor
	kick, call        *os.File
	idx, seen         uint16 // available index, used index up to which we have looked
	free              []int
}

// newDriver starts a device with the given configuration and a driver for it, with rings of size descriptors.
func newDriver(t testing.TB, cfg Config, size int) *driver {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.CID = testCID
	d, err := Listen(filepath.Join(dir, "s"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	g := &driver{t: t, d: d}
	g.connect(size)
	return g
}

// connect does what QEMU does when the enclave's driver comes up.
func (g *driver) connect(size int) {
	g.t.Helper()
	conn, err := net.Dial("unix", g.d.ln.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.conn = conn.(*net.UnixConn)
	g.t.Cleanup(func() { conn.Close() })
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		g.t.Fatal(err)
	}
	g.file = os.NewFile(uintptr(fd), "guest")
	g.t.Cleanup(func() { g.file.Close() })
	if err := unix.Ftruncate(fd, guestSize); err != nil {
		g.t.Fatal(err)
	}
	if g.mem, err = unix.Mmap(fd, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		g.t.Fatal(err)
	}
	if got := g.ask(msgGetFeatures, nil); binary.NativeEndian.Uint64(got) != features {
		g.t.Fatalf("features %x", got)
	}
	g.ask(msgGetProtocolFeatures, nil)
	g.tell(msgSetProtocolFeatures, u64(protocolMQ|protocolConfig|protocolReplyAck))
	if cfg := g.ask(msgGetConfig, append(make([]byte, 4, 20), 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)); cfg[12] != testCID {
		g.t.Fatalf("configuration space %x, want CID %d", cfg[12:], testCID)
	}
	g.start(size)
}

// start sets the rings up and runs them.
func (g *driver) start(size int) {
	g.t.Helper()
	clear(g.mem[:64<<10])
	g.tell(msgSetFeatures, u64(featureVersion1|featureProtocol|g.more))
	g.shareMemory()
	at := 0x1000
	data := 0x10000
	for i := range g.q {
		q := &driverQueue{size: size, desc: at, avail: at + 16*size, used: at + 16*size + (6+2*size+15)/16*16, data: data}
		at = q.used + 6 + 8*size
		at = (at + 4095) / 4096 * 4096
		data += size * 4096
		g.q[i] = q
		q.kick, q.call = eventfd(g.t), eventfd(g.t)
		for n := range size {
			q.free = append(q.free, n)
		}
		n := uint32(i)
		g.tell(msgSetVringNum, words(n, uint32(size)))
		g.tell(msgSetVringBase, words(n, 0))
		addr := words(n, 0)
		for _, a := range []int{q.desc, q.used, q.avail, 0} {
			addr = append(addr, u64(userBase+uint64(a))...)
		}
		g.tell(msgSetVringAddr, addr)
		g.tell(msgSetVringKick, u64(uint64(n)), q.kick)
		g.tell(msgSetVringCall, u64(uint64(n)), q.call)
	}
	for i := range g.q {
		g.tell(msgSetVringEnable, words(uint32(i), 1))
	}
	g.ask(msgGetQueueNum, nil) // the messages above have been handled when this is answered
}

func (g *driver) shareMemory() {
	g.t.Helper()
	table := words(1, 0)
	for _, v := range []uint64{0, guestSize, userBase, 0} {
		table = append(table, u64(v)...)
	}
	g.tell(msgSetMemTable, table, g.file)
}

// reset does what QEMU does when the enclave reboots.
func (g *driver) reset() {
	g.t.Helper()
	for i := range g.q {
		g.ask(msgGetVringBase, words(uint32(i), 0))
	}
}

func words(v ...uint32) []byte {
	var b []byte
	for _, w := range v {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

func eventfd(t testing.TB) *os.File {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// tell sends a message.
func (g *driver) tell(request uint32, payload []byte, files ...*os.File) {
	g.t.Helper()
	var oob []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			rc, _ := f.SyscallConn()
			rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := g.conn.WriteMsgUnix(append(words(request, 1, uint32(len(payload))), payload...), oob, nil); err != nil {
		g.t.Fatalf("message %d: %v", request, err)
	}
}

// ask sends a message and returns the payload of the answer.
func (g *driver) ask(request uint32, payload []byte) []byte {
	g.t.Helper()
	g.tell(request, payload)
	b := make([]byte, 1024)
	g.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := g.conn.Read(b)
	if err != nil || n < 12 {
		g.t.Fatalf("answer to message %d: %d bytes, %v", request, n, err)
	}
	return b[12:n]
}

func (g *driver) u16(at int) uint16         { return binary.LittleEndian.Uint16(g.mem[at:]) }
func (g *driver) put16(at int, v uint16)    { binary.LittleEndian.PutUint16(g.mem[at:], v) }
func (g *driver) put32(at int, v uint32)    { binary.LittleEndian.PutUint32(g.mem[at:], v) }
func (g *driver) put64(at int, v uint64)    { binary.LittleEndian.PutUint64(g.mem[at:], v) }
func (q *driverQueue) descriptor(n int) int { return q.desc + 16*n }

// offer makes the descriptor n available and kicks.
func (g *driver) offer(q *driverQueue, n int) {
	g.put16(q.avail+4+2*(int(q.idx)%q.size), uint16(n))
	q.idx++
	g.d.mu.Lock() // stands for the barrier that a driver needs here
	g.put16(q.avail+2, q.idx)
	g.d.mu.Unlock()
	q.kick.Write(one[:])
}

// describe fills descriptor n.
func (g *driver) describe(q *driverQueue, n int, addr uint64, size uint32, flags, next uint16) {
	at := q.descriptor(n)
	g.put64(at, addr)
	g.put32(at+8, size)
	g.put16(at+12, flags)
	g.put16(at+14, next)
}

// fillRX gives the device all receive buffers that are free.
func (g *driver) fillRX() {
	q := g.q[queueRX]
	for _, n := range q.free {
		g.describe(q, n, uint64(q.data+4096*n), bufferSize, descWrite, 0)
		g.offer(q, n)
	}
	q.free = nil
}

// usedBuffer waits for the device to return a buffer; ok is false after the time.
func (g *driver) usedBuffer(q *driverQueue, wait time.Duration) (n int, size int, ok bool) {
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Microsecond) {
		g.d.mu.Lock()
		idx := g.u16(q.used + 2)
		g.d.mu.Unlock()
		if idx != q.seen {
			at := q.used + 4 + 8*(int(q.seen)%q.size)
			q.seen++
			return int(binary.LittleEndian.Uint32(g.mem[at:])), int(binary.LittleEndian.Uint32(g.mem[at+4:])), true
		}
		if time.Now().After(end) {
			return 0, 0, false
		}
	}
}

// recv waits for a packet from the device and gives the buffer back.
func (g *driver) recv() (header, []byte) {
	g.t.Helper()
	h, data, ok := g.tryRecv(10 * time.Second)
	if !ok {
		g.t.Fatal("no packet from the device")
	}
	return h, data
}

func (g *driver) tryRecv(wait time.Duration) (h header, data []byte, ok bool) {
	q := g.q[queueRX]
	n, size, ok := g.usedBuffer(q, wait)
	if !ok {
		return h, nil, false
	}
	at := q.data + 4096*n
	h.decode(g.mem[at:])
	data = bytes.Clone(g.mem[at+headerSize : at+size])
	q.free = append(q.free, n)
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
	if !g.trySend(h, payload, 10*time.Second) {
		g.t.Fatalf("packet %+v was not taken", h)
	}
}

// trySend gives the device a packet and says whether it took it in time. One that was not taken stays where it is.
func (g *driver) trySend(h header, payload []byte, wait time.Duration) bool {
	q := g.q[queueTX]
	a, b := q.free[0], q.free[1]
	q.free = q.free[2:]
	h.len = uint32(len(payload))
	h.encode(g.mem[q.data+4096*a:])
	copy(g.mem[q.data+4096*b:], payload)
	flags := uint16(0)
	if len(payload) > 0 {
		flags = descNext
	}
	g.describe(q, a, uint64(q.data+4096*a), headerSize, flags, uint16(b))
	g.describe(q, b, uint64(q.data+4096*b), uint32(len(payload)), 0, 0)
	g.offer(q, a)
	head, _, ok := g.usedBuffer(q, wait)
	if ok {
		if head != a {
			g.t.Fatalf("descriptor %d was given, %d came back", a, head)
		}
		q.free = append(q.free, a, b)
	}
	return ok
}

// from is a header of a packet of the enclave.
func from(port, to uint32, op uint16) header {
	return header{srcCID: testCID, dstCID: ParentCID, srcPort: port, dstPort: to, typ: typeStream, op: op, bufAlloc: 256 << 10}
}
