package stream

import (
	"net"
	"strings"
	"testing"
	"time"
)

// TestStalledServer: a connection to a server that sends a byte and then nothing fails. What is sent to it gives it
// more time to answer.
func TestStalledServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("x"))
		}
	}()
	c, err := Dial(50*time.Millisecond)(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); err == nil || !strings.Contains(err.Error(), "sent no data for 50ms") {
		t.Errorf("error %v, expected one that says so", err)
	}
	noted := new(deadline)
	if _, err := (conn{noted, time.Hour}).Write(b); err != nil || time.Until(noted.at) < time.Minute {
		t.Errorf("after a write a read may take until %v, error %v", noted.at, err)
	}
}

// deadline is a connection that notes how long a read may take.
type deadline struct {
	net.Conn
	at time.Time
}

func (d *deadline) SetDeadline(at time.Time) error { d.at = at; return nil }

func (d *deadline) Write(p []byte) (int, error) { return len(p), nil }
