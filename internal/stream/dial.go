package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Stall is how long a server may send and take nothing before neb gives it up.
const Stall = 30 * time.Second

// Dial returns a function for DialContext of http.Transport. It makes a connection within 15 seconds or fails, and
// the connection fails when nothing was sent or received for the time stall.
func Dial(stall time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 15 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn{c, stall}, nil
	}
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
