package eif

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// PCRSize is the size of a platform configuration register in bytes: that of a SHA-384 digest.
const PCRSize = sha512.Size384

// PCR is the value of a platform configuration register.
type PCR [PCRSize]byte

// String returns the register in lower-case hexadecimal, as nitro-cli and AWS KMS write it.
func (p PCR) String() string { return hex.EncodeToString(p[:]) }

// MarshalText makes a PCR a hexadecimal string in JSON.
func (p PCR) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// IsZero reports whether every byte of the register is zero, as in debug mode: such a value identifies no
// image.
func (p PCR) IsZero() bool { return p == PCR{} }

// ParsePCR reads a register from 96 hexadecimal digits.
func ParsePCR(s string) (PCR, error) {
	var p PCR
	b, err := hex.DecodeString(s)
	if err != nil {
		return p, fmt.Errorf("invalid PCR %q: expected hexadecimal digits: %w", s, err)
	}
	if len(b) != PCRSize {
		return p, fmt.Errorf("invalid PCR %q: %d bytes, expected %d", s, len(b), PCRSize)
	}
	return PCR(b), nil
}

// Extend returns the register after one measurement: SHA-384 over 48 zero bytes, what a register holds at
// first, and the measurement itself.
func Extend(measurement []byte) PCR {
	h := sha512.New384()
	h.Write(make([]byte, PCRSize))
	h.Write(measurement)
	return PCR(h.Sum(nil))
}

// MeasureContent returns the register of some content: [Extend] of its SHA-384.
func MeasureContent(r io.Reader) (PCR, error) {
	h := sha512.New384()
	if _, err := io.Copy(h, r); err != nil {
		return PCR{}, err
	}
	return Extend(h.Sum(nil)), nil
}

// Measurements are the registers that an enclave image determines.
type Measurements struct {
	PCR0 PCR  // the image: kernel, command line and all ramdisks; zero if it is not known, see [Header.PCIe]
	PCR1 PCR  // the bootstrap: kernel, command line and the first ramdisk
	PCR2 PCR  // the application: all ramdisks but the first
	PCR8 *PCR // the signing certificate; nil for an image without a signature
}

// PCR returns register n, and false if it is not 0, 1, 2 or 8, is 8 of an image without a signature, or not
// known.
func (m Measurements) PCR(n int) (PCR, bool) {
	switch {
	case n == 0 && m.PCR0.IsZero():
		return PCR{}, false
	case n >= 0 && n < 3:
		return [...]PCR{m.PCR0, m.PCR1, m.PCR2}[n], true
	case n == 8 && m.PCR8 != nil:
		return *m.PCR8, true
	}
	return PCR{}, false
}

// MarshalJSON writes the object that nitro-cli prints.
func (m Measurements) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		HashAlgorithm string
		PCR0          PCR `json:",omitzero"`
		PCR1, PCR2    PCR
		PCR8          *PCR `json:",omitempty"`
	}{"Sha512_48 { .. }", m.PCR0, m.PCR1, m.PCR2, m.PCR8})
}

// SectionDigest has the digests of one section.
type SectionDigest struct {
	SHA384 [sha512.Size384]byte
	CRC    uint32 // CRC-32 of the content alone
}

const (
	chunkSize = 512 << 10 // hashing a chunk takes much longer than handing it to another goroutine
	chunks    = 8         // how far the fastest lane can run ahead of the slowest
)

// chunk is a piece of a section on its way to the lanes. The lane that finishes last gives it back.
type chunk struct {
	buf  []byte
	n    int
	left atomic.Int32
}

// meter computes the registers, and a digest and a checksum of each section, from the contents of a file's
// sections in the order of the file. It hashes in two goroutines and sums (and writes, for a [Writer]) in a
// third.
type meter struct {
	image hash.Hash // PCR0
	boot  hash.Hash // PCR1; nil as long as it has seen the same bytes as image
	app   hash.Hash // PCR2
	disks int       // ramdisks begun so far

	digests []SectionDigest
	out     io.Writer // where the content goes; may be nil
	outErr  error     // of out; valid when no section is open
	free    chan *chunk
	made    int

	lanes  []chan *chunk // of the open section; nil between sections
	done   sync.WaitGroup
	digest hash.Hash
	crc    uint32
	fill   *chunk // being filled by write
}

func newMeter(out io.Writer) *meter {
	return &meter{
		image: sha512.New384(),
		app:   sha512.New384(),
		out:   out,
		free:  make(chan *chunk, chunks),
	}
}

// begin opens a section. Which registers cover it depends on its type and on the ramdisks before it.
//
// PCR0 and PCR1 are the same hash until the second ramdisk begins, and the digest of the second ramdisk is
// what goes into PCR2 when no third follows: so two hashes a byte are enough for what nearly all files hold.
func (m *meter) begin(t SectionType) {
	m.digest = sha512.New384()
	first := []hash.Hash{}
	second := []hash.Hash{m.digest}
	switch {
	case t == Ramdisk && m.disks > 0:
		if m.boot == nil {
			m.boot = cloneHash(m.image)
		}
		first = append(first, m.image)
		if m.disks == 1 {
			m.digest = m.app
			second = []hash.Hash{m.app}
		} else {
			second = append(second, m.app)
		}
	case t == Kernel || t == Cmdline || t == Ramdisk:
		first = append(first, m.image)
		if m.boot != nil {
			second = append(second, m.boot)
		}
	}
	if t == Ramdisk {
		m.disks++
	}

	m.crc = 0
	m.lane(func(b []byte) {
		m.crc = crc32.Update(m.crc, crc32.IEEETable, b)
		if m.out != nil && m.outErr == nil {
			_, m.outErr = m.out.Write(b)
		}
	})
	for _, hashes := range [][]hash.Hash{first, second} {
		if len(hashes) == 0 {
			continue
		}
		m.lane(func(b []byte) {
			for _, h := range hashes {
				h.Write(b)
			}
		})
	}
}

// lane starts a goroutine that receives every chunk of the open section.
func (m *meter) lane(use func([]byte)) {
	lane := make(chan *chunk, chunks)
	m.lanes = append(m.lanes, lane)
	m.done.Go(func() {
		for c := range lane {
			use(c.buf[:c.n])
			if c.left.Add(-1) == 0 {
				m.free <- c
			}
		}
	})
}

// next returns a chunk to fill: a used one, or a new one while there are few.
func (m *meter) next() *chunk {
	if m.fill != nil {
		return m.fill
	}
	if m.made < chunks {
		select {
		case m.fill = <-m.free:
		default:
			m.made++
			m.fill = &chunk{buf: make([]byte, chunkSize)}
		}
	} else {
		m.fill = <-m.free
	}
	m.fill.n = 0
	return m.fill
}

// send hands the filled chunk to the lanes.
func (m *meter) send() {
	c := m.fill
	m.fill = nil
	c.left.Store(int32(len(m.lanes)))
	for _, lane := range m.lanes {
		lane <- c
	}
}

func (m *meter) write(p []byte) {
	for len(p) > 0 {
		c := m.next()
		n := copy(c.buf[c.n:], p)
		c.n += n
		p = p[n:]
		if c.n == len(c.buf) {
			m.send()
		}
	}
}

// readFrom measures everything that r still has.
func (m *meter) readFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		c := m.next()
		n, err := io.ReadFull(r, c.buf[c.n:])
		c.n += n
		total += int64(n)
		if c.n == len(c.buf) {
			m.send()
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// end closes the open section and waits until all of it is hashed and written.
func (m *meter) end() error {
	if m.fill != nil && m.fill.n > 0 {
		m.send()
	}
	for _, lane := range m.lanes {
		close(lane)
	}
	m.done.Wait()
	m.lanes = nil
	m.digests = append(m.digests, SectionDigest{SHA384: [sha512.Size384]byte(m.digest.Sum(nil)), CRC: m.crc})
	return m.outErr
}

// measurements returns the registers of the sections so far. No section may be open.
func (m *meter) measurements() Measurements {
	boot := m.boot
	if boot == nil {
		boot = m.image
	}
	return Measurements{
		PCR0: Extend(m.image.Sum(nil)),
		PCR1: Extend(boot.Sum(nil)),
		PCR2: Extend(m.app.Sum(nil)),
	}
}

func cloneHash(h hash.Hash) hash.Hash {
	c, err := h.(hash.Cloner).Clone()
	if err != nil {
		panic(errors.Join(errors.New("SHA-384 of this Go cannot be cloned"), err))
	}
	return c.(hash.Hash)
}
