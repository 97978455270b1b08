package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Stall is how long a server may send and take nothing before neb gives it up.
const Stall = 30 * time.Second

// MinRate is how many bytes a second a server must send while neb waits for an answer's body. A modem of
// 56 kbit/s sends seven times as many.
const MinRate = 1 << 10

// ErrSlow is the error for an answer that comes slower than [MinRate].
var ErrSlow = errors.New("too slow")

// Transport limits the time of t, and returns it: a connection is made within 15 seconds, it fails when
// nothing was sent or received for the time stall, the header of an answer comes within twice that time, and
// the body with [MinRate] on average over twice that time.
func Transport(t *http.Transport, stall time.Duration) http.RoundTripper {
	dialer := net.Dialer{Timeout: 15 * time.Second}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn{c, stall}, nil
	}
	t.ResponseHeaderTimeout = 2 * stall
	return transport{t, 2 * stall}
}

type transport struct {
	*http.Transport
	window time.Duration
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = &body{ReadCloser: resp.Body, window: t.window, now: time.Now}
	}
	return resp, err
}

// body fails when it comes slower than [MinRate]. The time between two reads is the reader's, and does not
// count.
type body struct {
	io.ReadCloser
	window time.Duration // of time that reads took, after which the rate is computed
	now    func() time.Time
	waited time.Duration
	count  int64 // bytes
}

func (b *body) Read(p []byte) (int, error) {
	start := b.now()
	n, err := b.ReadCloser.Read(p)
	b.waited += b.now().Sub(start)
	b.count += int64(n)
	if b.waited < b.window {
		return n, err
	}
	if least := int64(b.waited.Seconds() * MinRate); err == nil && b.count < least {
		err = fmt.Errorf("%w: sent %d bytes in %v, expected at least %d", ErrSlow, b.count,
			b.waited.Round(time.Second), least)
	}
	b.waited, b.count = 0, 0
	return n, err
}

// conn is a connection that fails when no data moves for a while.
type conn struct {
	net.Conn
	stall time.Duration
}

func (c conn) Read(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(c.stall))
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("sent no data for %v", c.stall)
	}
	return n, err
}

// Write also gives a Read that waits for the answer more time: the answer comes after all that is sent.
func (c conn) Write(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(c.stall))
	n, err := c.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("took no data for %v", c.stall)
	}
	return n, err
}
