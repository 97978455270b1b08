// Package virtio plays QEMU and the driver in the enclave's kernel for tests of vhost-user devices: it sends
// the messages of the former and fills the rings in shared memory as the latter, and can break the rules of
// both. Its ring code shares nothing with that of the devices.
package virtio

import (
	"encoding/binary"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Messages of vhost-user.
const (
	GetFeatures         = 1
	SetFeatures         = 2
	SetMemTable         = 5
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	GetProtocolFeatures = 15
	SetProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	GetConfig           = 24
)

// Features, protocol features and flags.
const (
	EventIdx        = 1 << 29
	common          = 1<<30 | 1<<32 // protocol features, version 1
	protocol        = 1<<0 | 1<<3 | 1<<9
	DescNext        = 1
	DescWrite       = 2
	DescIndirect    = 4
	AvailNoNotify   = 1
	UserBase        = 0x7f0000000000 // the address of the memory in QEMU; it has address 0 in the enclave
	MemorySize      = 4 << 20
	BufferSize      = 4096 // each descriptor's share of the memory at Queue.Data
	descriptorBytes = 16
)

// A Driver is QEMU and the driver of one device.
type Driver struct {
	T        testing.TB
	Mem      []byte // all of the enclave's memory
	Queues   []*Queue
	Features uint64 // what is negotiated beyond the features that every driver wants

	connect func() (*os.File, error)
	conn    *net.UnixConn
	file    *os.File
}

// A Queue is a ring of the driver's. Its offsets count from the start of the memory.
type Queue struct {
	Size              int
	Desc, Avail, Used int
	Data              int // BufferSize bytes for each descriptor
	Kick, Call        *os.File
	Idx, Seen         uint16 // the available index; the used index up to which the driver has looked
	Free              []int  // descriptors
}

// New connects to a device, by its method Connect, and starts it with queues of size descriptors each.
func New(t testing.TB, connect func() (*os.File, error), queues, size int) *Driver {
	t.Helper()
	g := &Driver{T: t, connect: connect, Queues: make([]*Queue, queues)}
	g.Connect(size)
	return g
}

// Connect does what QEMU does when the enclave's driver comes up, with memory that is new.
func (g *Driver) Connect(size int) {
	g.T.Helper()
	socket, err := g.connect()
	if err != nil {
		g.T.Fatal(err)
	}
	conn, err := net.FileConn(socket)
	socket.Close()
	if err != nil {
		g.T.Fatal(err)
	}
	g.conn = conn.(*net.UnixConn)
	g.T.Cleanup(func() { conn.Close() })
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		g.T.Fatal(err)
	}
	g.file = os.NewFile(uintptr(fd), "guest")
	g.T.Cleanup(func() { g.file.Close() })
	if err := unix.Ftruncate(fd, MemorySize); err != nil {
		g.T.Fatal(err)
	}
	g.Mem, err = unix.Mmap(fd, 0, MemorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		g.T.Fatal(err)
	}
	if got := binary.NativeEndian.Uint64(g.Ask(GetFeatures, nil)); got != common|EventIdx|1<<28 {
		g.T.Fatalf("the device offers features %#x", got)
	}
	g.Ask(GetProtocolFeatures, nil)
	g.Tell(SetProtocolFeatures, Long(protocol))
	g.Start(size)
}

// Close ends the connection as the end of QEMU does.
func (g *Driver) Close() { g.conn.Close() }

// Config returns n bytes of the configuration space.
func (g *Driver) Config(n int) []byte {
	g.T.Helper()
	return g.Ask(GetConfig, append(Words(0, uint32(n), 0), make([]byte, n)...))[12:]
}

// Start sets the rings up and runs them.
func (g *Driver) Start(size int) {
	g.T.Helper()
	clear(g.Mem[:64<<10])
	g.Tell(SetFeatures, Long(common|g.Features))
	table := Words(1, 0)
	for _, v := range []uint64{0, MemorySize, UserBase, 0} {
		table = append(table, Long(v)...)
	}
	g.Tell(SetMemTable, table, g.file)
	at := 0x1000
	data := 0x10000
	for i := range g.Queues {
		avail := at + descriptorBytes*size
		q := &Queue{Size: size, Desc: at, Avail: avail, Used: avail + (6+2*size+15)/16*16, Data: data}
		at = (q.Used + 6 + 8*size + 4095) / 4096 * 4096
		data += size * BufferSize
		g.Queues[i] = q
		q.Kick, q.Call = Eventfd(g.T), Eventfd(g.T)
		for n := range size {
			q.Free = append(q.Free, n)
		}
		n := uint32(i)
		g.Tell(SetVringNum, Words(n, uint32(size)))
		g.Tell(SetVringBase, Words(n, 0))
		addr := Words(n, 0)
		for _, a := range []int{q.Desc, q.Used, q.Avail, 0} {
			addr = append(addr, Long(UserBase+uint64(a))...)
		}
		g.Tell(SetVringAddr, addr)
		g.Tell(SetVringKick, Long(uint64(n)), q.Kick)
		g.Tell(SetVringCall, Long(uint64(n)), q.Call)
	}
	for i := range g.Queues {
		g.Tell(SetVringEnable, Words(uint32(i), 1))
	}
	g.Ask(GetQueueNum, nil) // the messages above have been handled when this is answered
}

// Reset does what QEMU does when the enclave reboots.
func (g *Driver) Reset() {
	g.T.Helper()
	for i := range g.Queues {
		g.Ask(GetVringBase, Words(uint32(i), 0))
	}
}

// Words returns 32-bit words as they stand in messages.
func Words(v ...uint32) []byte {
	var b []byte
	for _, w := range v {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// Long returns a 64-bit word as it stands in messages.
func Long(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// Eventfd returns a new event descriptor.
func Eventfd(t testing.TB) *os.File {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// Tell sends a message.
func (g *Driver) Tell(request uint32, payload []byte, files ...*os.File) {
	g.T.Helper()
	var oob []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			rc, _ := f.SyscallConn()
			rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		oob = unix.UnixRights(fds...)
	}
	message := append(Words(request, 1, uint32(len(payload))), payload...)
	if _, _, err := g.conn.WriteMsgUnix(message, oob, nil); err != nil {
		g.T.Fatalf("message %d: %v", request, err)
	}
}

// Ask sends a message and returns the payload of the answer.
func (g *Driver) Ask(request uint32, payload []byte) []byte {
	g.T.Helper()
	g.Tell(request, payload)
	b := make([]byte, 1024)
	n, err := g.conn.Read(b)
	if err != nil || n < 12 {
		g.T.Fatalf("answer to message %d: %d bytes, %v", request, n, err)
	}
	return b[12:n]
}

// Put16, Put32 and Put64 write into the memory at an offset.
func (g *Driver) Put16(at int, v uint16) { binary.LittleEndian.PutUint16(g.Mem[at:], v) }
func (g *Driver) Put32(at int, v uint32) { binary.LittleEndian.PutUint32(g.Mem[at:], v) }
func (g *Driver) Put64(at int, v uint64) { binary.LittleEndian.PutUint64(g.Mem[at:], v) }

func (g *Driver) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&g.Mem[at])) }

// Describe fills descriptor n.
func (g *Driver) Describe(q *Queue, n int, addr uint64, size uint32, flags, next uint16) {
	at := q.Desc + descriptorBytes*n
	g.Put64(at, addr)
	g.Put32(at+8, size)
	g.Put16(at+12, flags)
	g.Put16(at+14, next)
}

// Add adds the buffer that starts at descriptor n to the ring, which the device does not see yet.
func (g *Driver) Add(q *Queue, n int) {
	g.Put16(q.Avail+4+2*(int(q.Idx)%q.Size), uint16(n))
	q.Idx++
}

// Publish makes the buffers that were added available.
func (g *Driver) Publish(q *Queue) {
	flags := atomic.LoadUint32(g.word(q.Avail)) & 0xffff
	atomic.SwapUint32(g.word(q.Avail), flags|uint32(q.Idx)<<16) // a full barrier
}

// Offer makes the buffer that starts at descriptor n available and kicks.
func (g *Driver) Offer(q *Queue, n int) {
	g.Add(q, n)
	g.Publish(q)
	q.Kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// UsedBuffer waits for the device to give a buffer back, and returns its first descriptor and the number of
// bytes written. ok is false if it has not done so after the given time.
func (g *Driver) UsedBuffer(q *Queue, wait time.Duration) (n, size int, ok bool) {
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Microsecond) {
		if idx := uint16(atomic.LoadUint32(g.word(q.Used)) >> 16); idx != q.Seen {
			at := q.Used + 4 + 8*(int(q.Seen)%q.Size)
			q.Seen++
			le := binary.LittleEndian
			return int(le.Uint32(g.Mem[at:])), int(le.Uint32(g.Mem[at+4:])), true
		}
		if time.Now().After(end) {
			return 0, 0, false
		}
	}
}

// UsedEvent is the index from which on the device wants to be notified.
func (g *Driver) UsedEvent(q *Queue) uint16 {
	return binary.LittleEndian.Uint16(g.Mem[q.Used+4+8*q.Size:])
}
