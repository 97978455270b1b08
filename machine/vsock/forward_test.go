package vsock_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/machine"
	"github.com/nitro-enclaves-bootstrap/neb/machine/vsock"
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

// A stream that breaks off on one side ends with a reset on the other.
func TestForwardReset(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		l, endpoint := listen(t, "tcp")
		g, _ := guest(t, endpoint, vsock.Config{})
		g.Say(1000, 7, vsock.OpRequest, 0, nil)
		host := accept(t, l)
		g.Hear(vsock.OpResponse)
		io.WriteString(host, "half")
		if _, data := g.Hear(vsock.OpData); string(data) != "half" {
			t.Errorf("the enclave got %q", data)
		}
		host.(*net.TCPConn).SetLinger(0)
		host.Close()
		g.Hear(vsock.OpReset)
	})
	t.Run("enclave", func(t *testing.T) {
		l, endpoint := listen(t, "tcp")
		g, _ := guest(t, endpoint, vsock.Config{})
		g.Say(1000, 7, vsock.OpRequest, 0, nil)
		host := accept(t, l)
		g.Hear(vsock.OpResponse)
		g.Say(1000, 7, vsock.OpData, 0, []byte("half"))
		g.Say(1000, 7, vsock.OpReset, 0, nil)
		if b, err := io.ReadAll(host); string(b) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host got %q, %v", b, err)
		}
	})
	t.Run("enclave, called by the host", func(t *testing.T) {
		l, endpoint := listen(t, "tcp")
		g, s := guest(t, endpoint, vsock.Config{})
		go machine.Forward(g.Device(), l, 80, s.report)
		host, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		port, _ := g.Hear(vsock.OpRequest)
		g.Say(80, port, vsock.OpResponse, 0, nil)
		g.Say(80, port, vsock.OpData, 0, []byte("half"))
		g.Say(80, port, vsock.OpReset, 0, nil)
		if b, err := io.ReadAll(host); string(b) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host got %q, %v", b, err)
		}
	})
}
