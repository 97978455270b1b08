package image

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
)

const (
	chunkSize  = 256 << 10
	chunkCount = 4
)

// pump reads a stream ahead in one goroutine and hashes it in another, while a third reads from the pump. The chunks
// are the same for both, nothing is copied for the hash.
type pump struct {
	ctx    context.Context
	free   chan *chunk
	full   chan *chunk
	cur    *chunk
	rest   []byte // of cur
	pos    int64  // bytes that the reader has taken
	err    error  // set before full is closed
	sum    chan []byte
	budget *budget // what may still be read; nil for no limit
}

type chunk struct {
	b     []byte
	users atomic.Int32
}

// newPump starts reading r. Both goroutines end when r does, or soon after ctx is done if r's Read then returns.
func newPump(ctx context.Context, r io.Reader, h hash.Hash) *pump {
	p := &pump{ctx: ctx, free: make(chan *chunk, chunkCount), full: make(chan *chunk, chunkCount), sum: make(chan []byte, 1)}
	toHash := make(chan *chunk, chunkCount)
	for range chunkCount {
		p.free <- &chunk{b: make([]byte, chunkSize)}
	}
	go func() {
		for c := range toHash {
			h.Write(c.b)
			p.release(c)
		}
		p.sum <- h.Sum(nil)
	}()
	go func() {
		defer close(p.full)
		defer close(toHash)
		for {
			var c *chunk
			select {
			case c = <-p.free:
			case <-ctx.Done():
				p.err = context.Cause(ctx)
				return
			}
			n, err := fill(r, c.b[:chunkSize])
			c.b = c.b[:n]
			if n > 0 {
				c.users.Store(2)
				toHash <- c
				p.full <- c
			}
			if err != nil {
				p.err = err
				return
			}
		}
	}()
	return p
}

// fill reads until b is full or r ends. Unlike io.ReadFull it hands on r's own error, so that a stream that was cut
// (io.ErrUnexpectedEOF) differs from one that ended.
func fill(r io.Reader, b []byte) (n int, err error) {
	for empty := 0; n < len(b) && err == nil && empty < 100; empty++ {
		var k int
		if k, err = r.Read(b[n:]); k > 0 {
			n, empty = n+k, -1
		}
	}
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return n, err
}

func (p *pump) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		p.free <- c
	}
}

// next makes the following chunk the current one.
func (p *pump) next() error {
	if p.cur != nil {
		p.release(p.cur)
		p.cur = nil
	}
	select {
	case c, ok := <-p.full:
		if !ok {
			return p.err
		}
		p.cur, p.rest = c, c.b
		if p.budget != nil {
			return p.budget.takeBytes(int64(len(c.b)))
		}
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

func (p *pump) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	p.pos += int64(n)
	return n, nil
}

// Peek returns the next n bytes without taking them, fewer at the end. n is small.
func (p *pump) Peek(n int) ([]byte, error) {
	for len(p.rest) == 0 {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return p.rest[:min(n, len(p.rest))], nil
}

// Seek skips forward without copying; archive/tar uses it to pass over bodies. Nothing else is supported.
func (p *pump) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, io.ErrNoProgress
	}
	for offset > 0 {
		for len(p.rest) == 0 {
			if err := p.next(); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return p.pos, err
			}
		}
		n := min(offset, int64(len(p.rest)))
		p.rest = p.rest[n:]
		p.pos += n
		offset -= n
	}
	return p.pos, nil
}

// drain reads on to the end.
func (p *pump) drain() error {
	for {
		if err := p.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Sum waits until all has been hashed. The reader must have come to the end.
func (p *pump) Sum() string {
	sum := <-p.sum
	p.sum <- sum
	return fmt.Sprintf("sha256:%x", sum)
}

// stop waits until nothing is read from the source any more. The context must be done, or the source at its end.
func (p *pump) stop() {
	for range p.full {
	}
}
