package image

import (
	"crypto/sha256"
	"fmt"
)

// digester computes the digest of what is written to it in a goroutine of its own: a hash takes as long as a
// decompression, and a machine has several processors.
type digester struct {
	free, full chan []byte
	sum        chan string
	closed     bool
	value      string
}

func newDigester() *digester {
	const chunks, size = 4, 64 << 10
	d := &digester{make(chan []byte, chunks), make(chan []byte, chunks), make(chan string, 1), false, ""}
	for range chunks {
		d.free <- make([]byte, size)
	}
	go func() {
		h := sha256.New()
		for b := range d.full {
			h.Write(b)
			d.free <- b[:size]
		}
		d.sum <- fmt.Sprintf("sha256:%x", h.Sum(nil))
	}()
	return d
}

func (d *digester) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		b := <-d.free
		n := copy(b, rest)
		d.full <- b[:n]
		rest = rest[n:]
	}
	return len(p), nil
}

// close ends the goroutine.
func (d *digester) close() {
	if !d.closed {
		d.closed = true
		close(d.full)
	}
}

// digest returns "sha256:" and 64 digits. Nothing can be written afterwards.
func (d *digester) digest() string {
	if d.value == "" {
		d.close()
		d.value = <-d.sum
	}
	return d.value
}
