package stream

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStalledServer: a connection to a server that sends a byte and then nothing fails. What is sent to it
// gives it more time to answer.
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
	limited := new(http.Transport)
	Transport(limited, 50*time.Millisecond)
	c, err := limited.DialContext(t.Context(), "tcp", l.Addr().String())
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

// TestSlowBody reads answers of several rates, with a clock that they advance.
func TestSlowBody(t *testing.T) {
	for _, c := range []struct {
		name  string
		chunk int           // bytes of each read
		every time.Duration // that each read takes
		slow  bool
	}{
		{"a byte every 29 seconds", 1, 29 * time.Second, true},
		{"a byte every second", 1, time.Second, true},
		{"1,000 bytes a second", 1000, time.Second, true},
		{"1,100 bytes a second", 1100, time.Second, false},
		{"a modem, with pauses", 200_000, 29 * time.Second, false},
	} {
		now, reads := time.Unix(0, 0), 0
		answer := answerFunc(func(p []byte) (int, error) {
			now, reads = now.Add(c.every), reads+1
			if reads == 10_000 {
				return 0, io.EOF
			}
			return c.chunk, nil
		})
		b := &body{ReadCloser: io.NopCloser(answer), window: time.Minute, now: func() time.Time {
			return now
		}}
		_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{b}, make([]byte, 1<<20))
		if errors.Is(err, ErrSlow) != c.slow || c.slow && now.Sub(time.Unix(0, 0)) > 2*time.Minute ||
			!c.slow && err != nil {
			t.Errorf("%s: %v after %d reads", c.name, err, reads)
		}
	}
	// What comes first does not pay for what comes later, and the reader's own time does not count.
	now := time.Unix(0, 0)
	size, took := 100<<20, time.Second
	b := &body{window: time.Minute, now: func() time.Time { return now }}
	b.ReadCloser = io.NopCloser(answerFunc(func([]byte) (int, error) {
		now = now.Add(took)
		return size, nil
	}))
	read := func() error { _, err := b.Read(nil); return err }
	for range 100 {
		now = now.Add(time.Hour)
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	size = 1
	for range 200 {
		if err := read(); err != nil {
			return
		}
	}
	t.Error("200 seconds of one byte each, after 10 GiB: no error")
}

type answerFunc func([]byte) (int, error)

func (f answerFunc) Read(p []byte) (int, error) { return f(p) }
