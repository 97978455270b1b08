package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
)

// echo serves connections by sending back what comes, and half-closing at the end.
func echo(_ context.Context, c *Conn) {
	if c.Accept() == nil {
		io.Copy(c, c)
		c.CloseWrite()
		io.Copy(io.Discard, c)
	}
}

func serve(h Handler) Config { return Config{Handlers: map[uint32]Handler{7: h}} }

func TestEcho(t *testing.T) {
	g := newDriver(t, serve(echo), 64)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	h, _ := g.expect(opResponse)
	if h.srcCID != ParentCID || h.dstCID != testCID || h.srcPort != 7 || h.dstPort != 1000 ||
		h.typ != typeStream || h.bufAlloc == 0 {
		t.Fatalf("response %+v", h)
	}
	g.send(from(1000, 7, opData), []byte("hello"))
	if _, data := g.expect(opData); string(data) != "hello" {
		t.Fatalf("echo %q", data)
	}
	end := from(1000, 7, opShutdown)
	end.flags = shutdownSend
	g.send(end, nil)
	if h, _ := g.expect(opShutdown); h.flags != shutdownSend || h.fwdCnt != 5 {
		t.Fatalf("shutdown %+v", h)
	}
	if h, _ := g.expect(opShutdown); h.flags != shutdownBoth {
		t.Fatalf("second shutdown %+v", h)
	}
	g.send(from(1000, 7, opReset), nil)
	waitFor(t, "the connection to go", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		return len(g.d.conns) == 0 && g.d.budget == budget
	})
}

func TestDial(t *testing.T) {
	g := newDriver(t, Config{}, 64)
	g.fillRX()
	type result struct {
		c   *Conn
		err error
	}
	dial := func(ctx context.Context) chan result {
		ch := make(chan result, 1)
		go func() {
			c, err := g.d.Dial(ctx, 80)
			ch <- result{c, err}
		}()
		return ch
	}

	t.Run("answered and reset before Dial looks", func(t *testing.T) {
		got := dial(t.Context())
		h, _ := g.expect(opRequest)
		g.d.vhost.Lock()
		c := g.d.conns[key{cid: ParentCID, peer: 80, port: h.srcPort}]
		for _, op := range []uint16{opResponse, opData, opReset} {
			packet := from(80, h.srcPort, op)
			packet.len = 4
			c.receive(&packet, &vhost.Buffer{Out: [][]byte{[]byte("half")}})
		}
		g.d.vhost.Unlock()
		r := <-got
		if r.err != nil {
			t.Fatal(r.err)
		}
		if b, err := io.ReadAll(r.c); string(b) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %q, %v", b, err)
		}
	})
	t.Run("answered", func(t *testing.T) {
		got := dial(t.Context())
		h, _ := g.expect(opRequest)
		if h.srcCID != ParentCID || h.dstPort != 80 {
			t.Fatalf("request %+v", h)
		}
		r := from(80, h.srcPort, opResponse)
		r.bufAlloc = 10
		g.send(r, nil)
		c := (<-got).c
		if c.RemoteAddr().String() != "16:80" {
			t.Errorf("remote address %v", c.RemoteAddr())
		}
		// Ten bytes of credit, and not one more.
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte("0123456789abcde"))
			wrote <- err
		}()
		if _, data := g.expect(opData); string(data) != "0123456789" {
			t.Fatalf("%q was sent with credit for ten bytes", data)
		}
		if _, data, ok := g.tryRecv(20 * time.Millisecond); ok {
			t.Fatalf("%q was sent without credit", data)
		}
		more := from(80, h.srcPort, opCreditUpdate)
		more.bufAlloc, more.fwdCnt = 10, 10
		g.send(more, nil)
		if _, data := g.expect(opData); string(data) != "abcde" {
			t.Fatalf("%q was sent", data)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		c.Close()
		if h, _ := g.expect(opShutdown); h.flags != shutdownBoth {
			t.Fatalf("close says %+v", h)
		}
		g.send(from(80, h.srcPort, opReset), nil)
	})
	t.Run("refused", func(t *testing.T) {
		got := dial(t.Context())
		h, _ := g.expect(opRequest)
		g.send(from(80, h.srcPort, opReset), nil)
		if err := (<-got).err; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial: %v", err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		got := dial(ctx)
		g.expect(opRequest)
		if err := (<-got).err; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial: %v", err)
		}
		g.expect(opReset)
	})
	t.Run("reset meanwhile", func(t *testing.T) {
		got := dial(t.Context())
		g.expect(opRequest)
		g.Reset()
		if err := (<-got).err; !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("dial: %v", err)
		}
	})
	t.Run("before the driver is up", func(t *testing.T) {
		got := dial(t.Context())
		g.Start(64)
		g.fillRX()
		h, _ := g.expect(opRequest)
		g.send(from(80, h.srcPort, opResponse), nil)
		if r := <-got; r.err != nil {
			t.Fatal(r.err)
		}
	})
}

// Whatever the enclave sends where nothing is, it gets a reset, and the device keeps nothing of it.
func TestRefused(t *testing.T) {
	var reported atomic.Int32
	cfg := serve(echo)
	cfg.Report = func(e Event) {
		if e.Kind == WrongCID || e.Kind == Refused {
			reported.Add(1)
		}
	}
	g := newDriver(t, cfg, 64)
	g.fillRX()
	for name, c := range map[string]struct {
		change func(h *header)
		answer bool
	}{
		"no handler":        {func(h *header) { h.dstPort = 8 }, true},
		"the host's CID":    {func(h *header) { h.dstCID = HostCID }, true},
		"an unknown CID":    {func(h *header) { h.dstCID = 1 << 40 }, true},
		"another's address": {func(h *header) { h.srcCID = 99 }, false},
		"a datagram":        {func(h *header) { h.typ = 3 }, true},
		"seqpacket":         {func(h *header) { h.typ = 2 }, true},
		"data to nobody":    {func(h *header) { h.op = opData }, true},
		"response":          {func(h *header) { h.op = opResponse }, true},
		"unknown operation": {func(h *header) { h.op = 77 }, true},
		"a reset":           {func(h *header) { h.op = opReset }, false},
		"one of our ports":  {func(h *header) { h.dstPort = FirstPort }, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := from(1000, 7, opRequest)
			c.change(&h)
			g.send(h, nil)
			got, _, ok := g.tryRecv(map[bool]time.Duration{true: patience,
				false: 20 * time.Millisecond}[c.answer])
			if ok != c.answer {
				t.Fatalf("answered %v: %+v", ok, got)
			}
			if ok && (got.op != opReset || got.srcCID != h.dstCID || got.srcPort != h.dstPort ||
				got.typ != h.typ || got.dstPort != 1000) {
				t.Errorf("answer %+v", got)
			}
		})
	}
	if n := reported.Load(); n != 4 {
		t.Errorf("%d events were reported, want 4", n)
	}
}

func TestHostCID(t *testing.T) {
	cfg := serve(echo)
	cfg.AllowHostCID = true
	g := newDriver(t, cfg, 64)
	g.fillRX()
	h := from(1000, 7, opRequest)
	h.dstCID = HostCID
	g.send(h, nil)
	if h, _ := g.expect(opResponse); h.srcCID != HostCID {
		t.Errorf("CID 2 was called, %d answers", h.srcCID)
	}
}

// Packets that break the rules of a connection end that connection, and no other.
func TestBadPackets(t *testing.T) {
	for name, c := range map[string]struct {
		h       header
		payload int
	}{
		"request on an open connection": {h: from(1000, 7, opRequest)},
		"response to nothing":           {h: from(1000, 7, opResponse)},
		"unknown operation":             {h: from(1000, 7, 99)},
	} {
		t.Run(name, func(t *testing.T) {
			g := newDriver(t, serve(echo), 64)
			g.fillRX()
			for _, port := range []uint32{1000, 1001} {
				g.send(from(port, 7, opRequest), nil)
				g.expect(opResponse)
				g.send(from(port, 7, opData), []byte("x"))
				g.expect(opData)
			}
			g.send(c.h, nil)
			if h, _ := g.expect(opReset); h.dstPort != 1000 {
				t.Errorf("reset of %d", h.dstPort)
			}
			g.send(from(1001, 7, opData), []byte("x"))
			g.expect(opData)
		})
	}
}

// Data that are longer than a packet may be, or than the buffer that holds them, end their connection:
// dropped, they were a hole in the stream.
func TestBadLength(t *testing.T) {
	for name, c := range map[string]struct{ claimed, sent uint32 }{
		"too long":     {maxPayload + 1, maxPayload + 1},
		"not all here": {100, 99},
	} {
		t.Run(name, func(t *testing.T) {
			g := newDriver(t, serve(echo), 64)
			g.fillRX()
			g.send(from(1000, 7, opRequest), nil)
			g.expect(opResponse)
			h := from(1000, 7, opData)
			h.len = c.claimed
			const at = 0x100000
			h.encode(g.Mem[at:])
			q := g.Queues[queueTX]
			g.Describe(q, q.Free[0], at, headerSize+c.sent, 0, 0)
			g.Offer(q, q.Free[0])
			if h, _ := g.expect(opReset); h.dstPort != 1000 {
				t.Errorf("reset of %d", h.dstPort)
			}
		})
	}
}

// An application whose connect is interrupted by a signal calls again from the same port: it is the same
// call, before it is answered and after.
func TestCallAgain(t *testing.T) {
	accept := make(chan struct{})
	g := newDriver(t, serve(func(ctx context.Context, c *Conn) {
		<-accept
		echo(ctx, c)
	}), 64)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	g.send(from(1000, 7, opRequest), nil)
	if h, _, ok := g.tryRecv(20 * time.Millisecond); ok {
		t.Fatalf("%+v before the call was taken", h)
	}
	close(accept)
	g.expect(opResponse)
	g.send(from(1000, 7, opRequest), nil)
	g.expect(opResponse)
	g.send(from(1000, 7, opData), []byte("x"))
	g.expect(opData)
	g.d.vhost.Lock()
	defer g.d.vhost.Unlock()
	if g.d.serving != 1 {
		t.Errorf("%d handlers for one call", g.d.serving)
	}
}

// An enclave that sends more than it was allowed to is cut off; until then, nothing is lost and memory has
// its bound.
func TestWindow(t *testing.T) {
	release := make(chan struct{})
	got := make(chan int, 1)
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		c.Accept()
		<-release
		b, _ := io.ReadAll(c)
		got <- len(b)
	}), 64)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	h, _ := g.expect(opResponse)
	sent := 0
	for sent+4096 <= int(h.bufAlloc) {
		g.send(from(1000, 7, opData), make([]byte, 4096))
		sent += 4096
	}
	g.send(from(1000, 7, opData), make([]byte, 1+int(h.bufAlloc)-sent))
	g.expect(opReset)
	close(release)
	if n := <-got; n != sent {
		t.Errorf("%d bytes were received of %d that were allowed", n, sent)
	}
}

// A connection that was opened among many, with a small buffer, is told of the larger one that it gets when
// they are gone: the enclave, which has used up the small one, waits for that.
func TestWindowGrows(t *testing.T) {
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		c.Accept()
		io.Copy(io.Discard, c)
	}), 64)
	g.fillRX()
	g.d.vhost.Lock()
	g.d.budget = minWindow
	g.d.vhost.Unlock()
	g.send(from(1000, 7, opRequest), nil)
	h, _ := g.expect(opResponse)
	if h.bufAlloc != minWindow {
		t.Fatalf("a buffer of %d bytes, want the smallest", h.bufAlloc)
	}
	g.d.vhost.Lock()
	g.d.budget = budget - minWindow
	g.d.vhost.Unlock()
	g.send(from(1000, 7, opData), make([]byte, minWindow))
	if h, _ := g.expect(opCreditUpdate); h.bufAlloc <= minWindow || h.fwdCnt != minWindow {
		t.Errorf("credit %+v", h)
	}
}

// An enclave that does not take what it is sent stops its own traffic and nothing else: no memory grows.
func TestFlood(t *testing.T) {
	g := newDriver(t, serve(echo), 64)
	// No receive buffers: resets cannot be delivered.
	h := from(1000, 7, opData)
	taken := 0
	for ; taken < 2000; taken++ {
		if !g.trySend(h, nil, 50*time.Millisecond) {
			break
		}
	}
	g.d.vhost.Lock()
	waiting := len(g.d.resets)
	g.d.vhost.Unlock()
	if waiting > maxResets || taken > maxResets+64 {
		t.Fatalf("%d resets wait, %d packets were taken", waiting, taken)
	}
	g.fillRX()
	for range taken + 1 { // the one that was not taken in time is still in the ring
		g.expect(opReset)
	}
	g.UsedBuffer(g.Queues[queueTX], patience)
	g.send(from(1001, 7, opRequest), nil)
	g.expect(opResponse)
}

// An enclave that takes nothing and opens connections that come to nothing is held up, or costs nothing.
func TestFloodOfConnections(t *testing.T) {
	for name, c := range map[string]struct {
		handler Handler
		packets []uint16
	}{
		"refused":          {func(context.Context, *Conn) {}, []uint16{opRequest}},
		"taken, and reset": {echo, []uint16{opRequest, opReset}},
		"taken, and wrong": {echo, []uint16{opRequest, opResponse}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := serve(c.handler)
			cfg.MaxConns = 16
			g := newDriver(t, cfg, 64)
		flood:
			for port := range uint32(2000) {
				for _, op := range c.packets {
					if !g.trySend(from(port, 7, op), nil, 50*time.Millisecond) {
						break flood
					}
				}
				g.d.vhost.Lock()
				resets, conns, ready := len(g.d.resets), len(g.d.conns), len(g.d.ready)
				g.d.vhost.Unlock()
				if resets > maxResets+cfg.MaxConns || conns > cfg.MaxConns || ready > conns {
					t.Fatalf("%d resets and %d connections wait, of %d that there are", resets, ready, conns)
				}
			}
			g.Reset()
			g.Start(64)
			g.fillRX()
			g.send(from(1000, 8, opRequest), nil)
			g.expect(opReset)
		})
	}
}

// A connection that we closed counts until the enclave confirms that, but not for longer than closeTimeout.
func TestCloseTimeout(t *testing.T) {
	cfg := serve(func(_ context.Context, c *Conn) { c.Accept() })
	cfg.MaxConns = 4
	g := newDriver(t, cfg, 64)
	g.d.vhost.Lock()
	g.d.closing = time.Hour
	g.d.vhost.Unlock()
	expire := func(port uint32) { // as if the time had passed
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		for k, c := range g.d.conns {
			if k.peer == port {
				c.ending.Reset(0)
			}
		}
	}
	g.fillRX()
	open := func(port uint32) {
		t.Helper()
		g.send(from(port, 7, opRequest), nil)
		g.expect(opResponse)
		if h, _ := g.expect(opShutdown); h.flags != shutdownBoth {
			t.Fatalf("shutdown %+v", h)
		}
	}
	for port := range uint32(4) {
		open(port)
	}
	g.send(from(4, 7, opRequest), nil)
	if h, _ := g.expect(opReset); h.dstPort != 4 {
		t.Fatalf("%+v, want a reset of the fifth connection", h)
	}
	expire(3)
	if h, _ := g.expect(opReset); h.dstPort != 3 {
		t.Fatalf("%+v, want a reset of the fourth connection after its time", h)
	}
	g.send(from(0, 7, opReset), nil)
	for port := range uint32(2) {
		open(5 + port)
	}
	for port := range uint32(2) {
		expire(5 + port)
		g.expect(opReset)
	}
	waitFor(t, "the places of all but two connections", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		return len(g.d.conns) == 2 && g.d.serving == 2
	})
}

// Connections of which the enclave keeps one half open, or that it answers too late, leave nothing behind.
func TestHalfOpen(t *testing.T) {
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		c.Accept()
		rest, _ := io.ReadAll(c)
		c.Write(append(rest, " and more"...))
	}), 64)
	g.d.vhost.Lock()
	g.d.closing = time.Millisecond
	g.d.vhost.Unlock()
	g.fillRX()
	t.Run("the enclave only receives", func(t *testing.T) {
		g.send(from(1000, 7, opRequest), nil)
		g.expect(opResponse)
		g.send(from(1000, 7, opData), []byte("half"))
		h := from(1000, 7, opShutdown)
		h.flags = shutdownSend
		g.send(h, nil)
		if _, data := g.expect(opData); string(data) != "half and more" {
			t.Errorf("the enclave got %q", data)
		}
		if h, _ := g.expect(opShutdown); h.flags != shutdownBoth {
			t.Errorf("shutdown %+v", h)
		}
		g.expect(opReset) // the enclave never confirms
	})
	t.Run("the enclave never closes", func(t *testing.T) {
		g.send(from(1001, 7, opRequest), nil)
		g.expect(opResponse)
		h := from(1001, 7, opShutdown)
		h.flags = shutdownReceive
		g.send(h, nil)
		g.send(from(1001, 7, opReset), nil)
	})
	t.Run("the enclave answers after Dial", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := g.d.Dial(ctx, 80)
			ended <- err
		}()
		h, _ := g.expect(opRequest)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("dial: %v", err)
		}
		g.expect(opReset)
		g.send(from(80, h.srcPort, opResponse), nil)
		g.expect(opReset)
		g.send(from(80, h.srcPort, opData), []byte("late"))
		g.expect(opReset)
	})
	waitFor(t, "the end of all connections", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		return len(g.d.conns) == 0 && g.d.serving == 0 && g.d.budget == budget
	})
}

// As many connections as are allowed, all stuffed by the enclave and read by nobody.
func TestMemory(t *testing.T) {
	const conns = 1000
	release := make(chan struct{})
	cfg := serve(func(_ context.Context, c *Conn) {
		c.Accept()
		<-release
	})
	cfg.MaxConns = conns
	g := newDriver(t, cfg, 64)
	g.fillRX()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	total := 0
	for port := range uint32(conns) {
		g.send(from(port, 7, opRequest), nil)
		h, _ := g.expect(opResponse)
		for n := int(h.bufAlloc); n > 0; n -= 4096 {
			g.send(from(port, 7, opData), make([]byte, min(n, 4096)))
			total += min(n, 4096)
		}
	}
	g.send(from(conns, 7, opRequest), nil)
	g.expect(opReset)
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int(after.HeapInuse+after.StackInuse) - int(before.HeapInuse+before.StackInuse)
	t.Logf("%d bytes stuffed into %d connections, memory grew by %d", total, conns, grown)
	if grown > 64<<20 {
		t.Errorf("memory grew by %d bytes with %d connections", grown, conns)
	}
	close(release)
	for range conns {
		g.expect(opShutdown)
	}
	g.Reset()
	waitFor(t, "the budget to come back", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		return g.d.budget == budget && g.d.serving == 0
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Connections that all have much to send take turns.
func TestFairness(t *testing.T) {
	const (
		conns = 8
		turns = 1000
	)
	much := make([]byte, 2*turns*bufferSize)
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		if c.Accept() == nil {
			c.Write(much)
		}
	}), 64)
	for port := range uint32(conns) {
		h := from(port, 7, opRequest)
		h.bufAlloc = 1 << 30
		g.send(h, nil)
	}
	waitFor(t, "all handlers to write", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		writing := 0
		for _, c := range g.d.conns {
			if len(c.out) > 0 {
				writing++
			}
		}
		return writing == conns
	})
	g.fillRX()
	count := [conns]int{}
	for range conns * turns {
		if h, _ := g.recv(); h.op == opData {
			count[h.dstPort]++
		}
	}
	for port, n := range count {
		if n < turns-2 || n > turns+2 {
			t.Errorf("connection %d got %d turns of %d: %v", port, n, conns*turns, count)
		}
	}
}

// A reset of the enclave ends its connections, with what was received still readable, and the next life
// works.
func TestReset(t *testing.T) {
	got := make(chan error, 4)
	text := make(chan string, 4)
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		c.Accept()
		<-c.Context().Done()
		b, err := io.ReadAll(c)
		text <- string(b)
		got <- err
	}), 64)
	for range 2 {
		g.fillRX()
		g.send(from(1000, 7, opRequest), nil)
		g.expect(opResponse)
		g.send(from(1000, 7, opData), []byte("last words"))
		g.Reset()
		if s := <-text; s != "last words" {
			t.Errorf("%q was received", s)
		}
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("end of the connection: %v", err)
		}
		g.Start(64)
	}
	// QEMU goes and another comes.
	g.Close()
	g.Connect(32)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	g.expect(opResponse)
}

// Two drivers that push back: with PushBack the device takes nothing while its own packets wait.
func TestPushBack(t *testing.T) {
	cfg := serve(echo)
	cfg.PushBack = true
	g := newDriver(t, cfg, 64)
	g.send(from(1000, 7, opRequest), nil) // its response waits for a buffer
	waitFor(t, "the response", func() bool {
		g.d.vhost.Lock()
		defer g.d.vhost.Unlock()
		return len(g.d.ready) > 0
	})
	if g.trySend(from(1001, 7, opRequest), nil, 50*time.Millisecond) {
		t.Fatal("a packet was taken while one waits")
	}
	g.fillRX()
	g.expect(opResponse)
	g.expect(opResponse)
}

func TestDeadlines(t *testing.T) {
	done := make(chan [2]error, 1)
	g := newDriver(t, serve(func(_ context.Context, c *Conn) {
		c.Accept()
		c.SetDeadline(time.Now().Add(20 * time.Millisecond))
		_, r := c.Read(make([]byte, 1))
		_, w := c.Write(make([]byte, 1<<20))
		done <- [2]error{r, w}
	}), 64)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	for _, err := range <-done {
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("want a timeout, got %v", err)
		}
	}
}

// Indirect descriptors, several parts, header and payload cut anywhere.
func TestIndirect(t *testing.T) {
	g := newDriver(t, serve(echo), 64)
	g.fillRX()
	g.send(from(1000, 7, opRequest), nil)
	g.expect(opResponse)
	q := g.Queues[queueTX]
	h := from(1000, 7, opData)
	h.len = 6
	packet := make([]byte, headerSize, 64)
	h.encode(packet)
	packet = append(packet, "abcdef"...)
	table, data := 0x100000, 0x110000
	copy(g.Mem[data:], packet)
	cuts := []int{0, 3, 43, 46, 50}
	for i := range len(cuts) - 1 {
		at := table + 16*i
		g.Put64(at, uint64(data+cuts[i]))
		g.Put32(at+8, uint32(cuts[i+1]-cuts[i]))
		g.Put16(at+12, virtio.DescNext)
		g.Put16(at+14, uint16(i+1))
	}
	g.Put16(table+16*(len(cuts)-2)+12, 0)
	n := q.Free[0]
	g.Describe(q, n, uint64(table), uint32(16*(len(cuts)-1)), virtio.DescIndirect, 0)
	g.Offer(q, n)
	if _, data := g.expect(opData); string(data) != "abcdef" {
		t.Errorf("echo %q", data)
	}
}
