package vsock_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// said collects what would be reported on standard error.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) report(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, err.Error())
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// listen opens a socket of the host, "tcp" or "unix", and returns its endpoint.
func listen(t *testing.T, network string) (net.Listener, string) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "forward") // t.TempDir is too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, network + ":" + l.Addr().String()
}

// guest is an enclave whose connections to port 7 go to endpoint.
func guest(t *testing.T, endpoint string, cfg vsock.Config) (*vsock.Guest, *said) {
	t.Helper()
	e, err := machine.ParseEndpoint(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s := &said{}
	cfg.Handlers = map[uint32]vsock.Handler{7: e.Handler(s.report, io.Discard)}
	return vsock.NewGuest(t, cfg), s
}

// accept takes one connection of the host.
func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// connected is an enclave with a connection to a socket of the host, from port 1000 to port 7.
func connected(t *testing.T, network string, cfg vsock.Config) (*vsock.Guest, *said, net.Conn) {
	t.Helper()
	l, endpoint := listen(t, network)
	g, s := guest(t, endpoint, cfg)
	g.Say(1000, 7, vsock.OpRequest, 0, nil)
	host := accept(t, l)
	g.Hear(vsock.OpResponse)
	return g, s, host
}

// called is an enclave that a socket of the host leads to, port 80 of it. port is the parent's.
func called(t *testing.T, network string, cfg vsock.Config) (g *vsock.Guest, s *said, host net.Conn,
	port uint32) {
	t.Helper()
	l, endpoint := listen(t, network)
	g, s = guest(t, endpoint, cfg)
	go machine.Forward(g.Device(), l, 80, s.report)
	host, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	port, _ = g.Hear(vsock.OpRequest)
	g.Say(80, port, vsock.OpResponse, 0, nil)
	return g, s, host, port
}

// A server in the enclave may be slower than its client: a connection waits for the port's first answer, and
// for no other.
func TestForwardWaits(t *testing.T) {
	l, endpoint := listen(t, "unix")
	g, s := guest(t, endpoint, vsock.Config{})
	go machine.Forward(g.Device(), l, 80, s.report)
	dial := func() net.Conn {
		host, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { host.Close() })
		return host
	}
	host := dial()
	for range 3 {
		port, _ := g.Hear(vsock.OpRequest)
		g.Say(80, port, vsock.OpReset, 0, nil)
	}
	port, _ := g.Hear(vsock.OpRequest)
	g.Say(80, port, vsock.OpResponse, 0, nil)
	io.WriteString(host, "hello")
	if _, data := g.Hear(vsock.OpData); string(data) != "hello" {
		t.Errorf("the enclave got %q", data)
	}
	if s.String() != "" {
		t.Errorf("neb said %q", s)
	}
	host = dial()
	port, _ = g.Hear(vsock.OpRequest)
	g.Say(80, port, vsock.OpReset, 0, nil)
	if b, err := io.ReadAll(host); len(b) > 0 || err != nil {
		t.Errorf("the second connection got %q, %v", b, err)
	}
	if !strings.Contains(s.String(), "connection refused") {
		t.Errorf("neb said %q", s)
	}
}

// A stream that breaks off on one side ends with a reset on the other.
func TestForwardReset(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		g, _, host := connected(t, "tcp", vsock.Config{})
		io.WriteString(host, "half")
		if _, data := g.Hear(vsock.OpData); string(data) != "half" {
			t.Errorf("the enclave got %q", data)
		}
		host.(*net.TCPConn).SetLinger(0)
		host.Close()
		g.Hear(vsock.OpReset)
	})
	t.Run("enclave", func(t *testing.T) {
		g, _, host := connected(t, "tcp", vsock.Config{})
		g.Say(1000, 7, vsock.OpData, 0, []byte("half"))
		g.Say(1000, 7, vsock.OpReset, 0, nil)
		if b, err := io.ReadAll(host); string(b) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host got %q, %v", b, err)
		}
	})
	t.Run("enclave, called by the host", func(t *testing.T) {
		g, _, host, port := called(t, "tcp", vsock.Config{})
		g.Say(80, port, vsock.OpData, 0, []byte("half"))
		g.Say(80, port, vsock.OpReset, 0, nil)
		if b, err := io.ReadAll(host); string(b) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host got %q, %v", b, err)
		}
	})
}

// An enclave that says its last words and ends: the host gets them all, also those that are still in the
// ring, and their end.
func TestForwardEnd(t *testing.T) {
	// more than a Unix socket takes at once, and less than the device lets the enclave send
	const size = 240 << 10
	for name, end := range map[string]func(g *vsock.Guest){
		"QEMU ends":        (*vsock.Guest).Vanish,
		"device reset":     (*vsock.Guest).Reboot,
		"device is closed": func(*vsock.Guest) {},
	} {
		for _, byHost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, called %v", name, byHost), func(t *testing.T) {
				var (
					g          *vsock.Guest
					s          *said
					host       net.Conn
					port, peer uint32
				)
				if cfg := (vsock.Config{Grace: 10 * time.Second}); byHost {
					port = 80
					g, s, host, peer = called(t, "unix", cfg)
				} else {
					port, peer = 1000, 7
					g, s, host = connected(t, "unix", cfg)
				}
				for range size / 4096 {
					g.Say(port, peer, vsock.OpData, 0, make([]byte, 4096))
				}
				g.Put(port, peer, []byte("done"))
				end(g)
				closed := make(chan bool)
				go func() {
					g.Device().Close()
					close(closed)
				}()
				time.Sleep(100 * time.Millisecond) // a host that is slow
				b, err := io.ReadAll(host)
				if len(b) != size+4 || !strings.HasSuffix(string(b), "done") || err != nil {
					t.Errorf("the host got %d bytes of %d, %v", len(b), size+4, err)
				}
				<-closed
				if s.String() != "" {
					t.Errorf("neb said %q", s)
				}
			})
		}
	}
}

// A host that does not read holds the end up for a bounded time only.
func TestForwardGrace(t *testing.T) {
	g, _, _ := connected(t, "unix", vsock.Config{Grace: 200 * time.Millisecond})
	for range 240 / 4 {
		g.Say(1000, 7, vsock.OpData, 0, make([]byte, 4096))
	}
	g.Vanish()
	start := time.Now()
	g.Device().Close()
	if took := time.Since(start); took < 150*time.Millisecond || took > 20*time.Second {
		t.Errorf("closing took %v, want the grace of 200ms", took)
	}
}

// TestForwardHostDone: a host that has said all and is gone loses nothing of it when the enclave still has a
// word for it.
func TestForwardHostDone(t *testing.T) {
	const size = 150_000 // less than the socket holds
	take := func(t *testing.T, g *vsock.Guest) {
		t.Helper()
		g.Say(1000, 7, vsock.OpData, 0, []byte("bye"))
		for got, shut := 0, false; got < size; {
			op, data := g.Next()
			switch op {
			case vsock.OpData:
				got += len(data)
			case vsock.OpShutdown: // it reads no more
				if shut {
					t.Fatalf("the end after %d of %d bytes", got, size)
				}
				shut = true
			case vsock.OpReset:
				t.Fatalf("a reset after %d of %d bytes", got, size)
			}
		}
		g.Reboot()
	}
	t.Run("unix", func(t *testing.T) {
		g, _, host := connected(t, "unix", vsock.Config{})
		if _, err := host.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		host.Close()
		take(t, g)
	})
	t.Run("exec", func(t *testing.T) {
		done := filepath.Join(t.TempDir(), "done")
		g, _ := guest(t, fmt.Sprintf("exec:head -c %d /dev/zero; exec <&- >&-; echo > %s; sleep 1", size,
			done), vsock.Config{})
		g.Say(1000, 7, vsock.OpRequest, 0, nil)
		g.Hear(vsock.OpResponse)
		for {
			if _, err := os.Stat(done); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		take(t, g)
	})
}
