package vhost

import (
	"bytes"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
)

const patience = time.Minute

// upper is a device with two queues that answers a request with its upper case.
type upper struct {
	dev    *Device
	buf    Buffer
	failed chan error
	starts int
}

func (u *upper) Start() { u.starts++ }
func (u *upper) Stop()  {}

func (u *upper) Failed(err error) { u.Broken(err) }

func (u *upper) Broken(err error) {
	select {
	case u.failed <- err:
	default:
	}
}

func (u *upper) Kick(i int) bool {
	q := u.dev.Queue(i)
	for q.Take(&u.buf) {
		request := make([]byte, min(u.buf.Len(), 64))
		io.ReadFull(&u.buf, request)
		u.buf.Write(bytes.ToUpper(request))
		q.Give(&u.buf)
	}
	q.Notify()
	return false
}

func newUpper() *upper {
	u := &upper{failed: make(chan error, 1)}
	u.dev = New(Config{Queues: []string{"request", "other"}, Space: []byte("space"), Handler: u})
	return u
}

// start starts a device and a driver for it.
func start(t *testing.T, size int) (*upper, *virtio.Driver) {
	t.Helper()
	u := newUpper()
	t.Cleanup(u.dev.Close)
	return u, virtio.New(t, u.dev.Connect, 2, size)
}

// ask offers a request in parts and expects its answer in the buffer behind them. It needs a ring of 8
// descriptors.
func ask(t *testing.T, g *virtio.Driver, q *virtio.Queue, parts ...string) {
	t.Helper()
	var want []byte
	at := q.Data
	for i, p := range parts {
		g.Describe(q, i, uint64(at), uint32(len(p)), virtio.DescNext, uint16(i+1))
		at += copy(g.Mem[at:], p)
		want = append(want, bytes.ToUpper([]byte(p))...)
	}
	n := len(parts)
	g.Describe(q, n, uint64(at), 3, virtio.DescWrite|virtio.DescNext, uint16(n+1))
	g.Describe(q, n+1, uint64(at+3), 64, virtio.DescWrite, 0)
	g.Offer(q, 0)
	head, size, ok := g.UsedBuffer(q, patience)
	if !ok || head != 0 || !bytes.Equal(g.Mem[at:at+size], want) {
		t.Fatalf("answer: %v, buffer %d, %d bytes: %q, want %q", ok, head, size, g.Mem[at:at+size], want)
	}
}

func TestRequests(t *testing.T) {
	u, g := start(t, 8)
	if got := g.Config(5); string(got) != "space" {
		t.Errorf("configuration space %q", got)
	}
	for _, q := range g.Queues {
		ask(t, g, q, "hello")
		ask(t, g, q, "a", "bcdef", "g")
		ask(t, g, q)
	}
	// The enclave resets the device, then another QEMU connects.
	g.Reset()
	g.Start(8)
	ask(t, g, g.Queues[1], "again")
	g.Close()
	g.Connect(8)
	ask(t, g, g.Queues[0], "and again")
	u.dev.Lock()
	defer u.dev.Unlock()
	if u.starts != 3 {
		t.Errorf("%d starts, want 3", u.starts)
	}
}

// TestBuffer checks Read, Next and Write over parts, and their ends.
func TestBuffer(t *testing.T) {
	parts := func(s ...string) (p [][]byte) {
		for _, s := range s {
			p = append(p, []byte(s))
		}
		return p
	}
	b := Buffer{Out: parts("abc", "de", "f"), In: parts("....", "..")}
	if b.Len() != 6 || b.Room() != 6 {
		t.Errorf("%d bytes to read, %d to write, want 6 and 6", b.Len(), b.Room())
	}
	whole := slices.Clone(b.In)
	p := make([]byte, 4)
	if n, err := b.Read(p); n != 4 || err != nil || string(p) != "abcd" {
		t.Errorf("read %d %q %v", n, p, err)
	}
	if got := b.Next(9); string(got) != "e" {
		t.Errorf("next %q, want the rest of the part", got)
	}
	if got, err := io.ReadAll(&b); string(got) != "f" || err != nil {
		t.Errorf("rest %q %v", got, err)
	}
	if got := b.Next(1); got != nil {
		t.Errorf("next %q behind the end", got)
	}
	if n, err := b.Write([]byte("12345")); n != 5 || err != nil {
		t.Errorf("write %d %v", n, err)
	}
	if n, err := b.Write([]byte("67")); n != 1 || err != io.ErrShortWrite {
		t.Errorf("write behind the end: %d %v", n, err)
	}
	if got := string(bytes.Join(whole, nil)); got != "123456" {
		t.Errorf("written: %q", got)
	}
}

// A broken ring is reported, is not used, and works again after a reset.
func TestBroken(t *testing.T) {
	const size = 8
	for name, c := range map[string]func(g *virtio.Driver, q *virtio.Queue){
		"head outside": func(g *virtio.Driver, q *virtio.Queue) { g.Offer(q, size) },
		"loop": func(g *virtio.Driver, q *virtio.Queue) {
			g.Describe(q, 0, 0x20000, 1, virtio.DescNext, 1)
			g.Describe(q, 1, 0x20000, 1, virtio.DescNext, 0)
			g.Offer(q, 0)
		},
		"write before read": func(g *virtio.Driver, q *virtio.Queue) {
			g.Describe(q, 0, 0x20000, 44, virtio.DescWrite|virtio.DescNext, 1)
			g.Describe(q, 1, 0x20000, 44, 0, 0)
			g.Offer(q, 0)
		},
		"indirect, itself": func(g *virtio.Driver, q *virtio.Queue) {
			g.Describe(q, 0, uint64(q.Desc), 16, virtio.DescIndirect, 0)
			g.Offer(q, 0)
		},
		"index runs away": func(g *virtio.Driver, q *virtio.Queue) { q.Idx += size + 1; g.Offer(q, 0) },

		"no memory there":   offer(virtio.MemorySize, 44, 0, 0),
		"end of memory":     offer(virtio.MemorySize-10, 44, 0, 0),
		"address overflow":  offer(1<<64-8, 44, 0, 0),
		"next outside":      offer(0x20000, 1, virtio.DescNext, size),
		"indirect, odd":     offer(0x20000, 17, virtio.DescIndirect, 0),
		"indirect, empty":   offer(0x20000, 0, virtio.DescIndirect, 0),
		"indirect, nowhere": offer(virtio.MemorySize-16, 32, virtio.DescIndirect, 0),
	} {
		t.Run(name, func(t *testing.T) {
			u, g := start(t, size)
			q := g.Queues[0]
			c(g, q)
			select {
			case err := <-u.failed:
				t.Log(err)
			case <-time.After(patience):
				t.Fatal("the ring was not reported")
			}
			if n, _, ok := g.UsedBuffer(q, 20*time.Millisecond); ok {
				t.Errorf("buffer %d was given back", n)
			}
			g.Reset()
			g.Start(size)
			ask(t, g, g.Queues[0], "hello")
		})
	}
}

// offer offers a buffer of one descriptor.
func offer(addr uint64, size uint32, flags, next uint16) func(*virtio.Driver, *virtio.Queue) {
	return func(g *virtio.Driver, q *virtio.Queue) {
		g.Describe(q, 0, addr, size, flags, next)
		g.Offer(q, 0)
	}
}

// With VIRTIO_RING_F_EVENT_IDX the device notifies the driver about the buffer that it named and about no
// other, and names the buffer from which on it wants notifications (specification, 2.7.7 and 2.7.10).
func TestEventIndex(t *testing.T) {
	_, g := start(t, 8)
	g.Reset()
	g.Features = virtio.EventIdx
	g.Start(8)
	q := g.Queues[0]
	notified := func(wait time.Duration) bool {
		var count [8]byte
		q.Call.SetReadDeadline(time.Now().Add(wait))
		_, err := q.Call.Read(count[:])
		return err == nil
	}
	notified(50 * time.Millisecond)        // a device that runs already notifies when it gets the descriptor
	g.Put16(q.Avail, virtio.AvailNoNotify) // has no meaning with the feature
	g.Put16(q.Avail+4+2*q.Size, uint16(1)) // about the second buffer
	ask(t, g, q, "first")
	if notified(50 * time.Millisecond) {
		t.Error("notified about the first buffer, wanted the second")
	}
	ask(t, g, q, "second")
	if !notified(patience) {
		t.Error("not notified about the second buffer")
	}
	ask(t, g, q, "third")
	if notified(50 * time.Millisecond) {
		t.Error("notified about the third buffer, wanted the second")
	}
	for end := time.Now().Add(patience); g.UsedEvent(q) != q.Idx; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the device wants to be notified about buffer %d, want %d", g.UsedEvent(q), q.Idx)
		}
	}
}

// Without the feature, flags decide in both directions.
func TestFlags(t *testing.T) {
	_, g := start(t, 8)
	q := g.Queues[0]
	notified := func(wait time.Duration) bool {
		var count [8]byte
		q.Call.SetReadDeadline(time.Now().Add(wait))
		_, err := q.Call.Read(count[:])
		return err == nil
	}
	notified(50 * time.Millisecond)
	ask(t, g, q, "hello")
	if !notified(patience) {
		t.Error("not notified")
	}
	g.Put16(q.Avail, virtio.AvailNoNotify)
	ask(t, g, q, "hello")
	if notified(50 * time.Millisecond) {
		t.Error("notified against the driver's wish")
	}
}

// A driver may choose one descriptor, and the event index then is half of a word.
func TestSmallestRing(t *testing.T) {
	for _, size := range []uint16{1, 2, 64} {
		q := Queue{size: size}
		mem := aligned(4096)
		if err := q.place(mem[:1024], mem[1024:2048], mem[2048:]); err != nil {
			t.Fatal(err)
		}
		at := 1024 + 4 + 2*int(size)
		mem[at-1], mem[at], mem[at+1], mem[at+2] = 9, 2, 1, 9
		if got := q.wanted(); got != 0x102 {
			t.Errorf("the event index of a ring of %d is %#x, want 0x102", size, got)
		}
	}
	_, g := start(t, 8)
	g.Reset()
	g.Features = virtio.EventIdx
	g.Start(1)
	q := g.Queues[0]
	copy(g.Mem[q.Data:], "x")
	g.Describe(q, 0, uint64(q.Data), 1, 0, 0)
	for range 3 {
		g.Offer(q, 0)
		if _, size, ok := g.UsedBuffer(q, patience); size != 0 || !ok {
			t.Errorf("buffer: %v, %d bytes", ok, size)
		}
	}
}
