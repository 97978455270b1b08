// Package compression reads what the kernel reads compressed, ramdisks and modules, as the kernel's own
// decompressors do (lib/decompress*.c). What a common library reads in another way than the kernel is
// rejected, because a user who inspects an image must see what boots.
package compression

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// formats are those of compressed_formats, by their first bytes. Those without open are
// recognized but not read: neb's kernels lack them.
var formats = []struct {
	name, magic string
	open        func(*io.SectionReader) (*Stream, error)
}{
	{"gzip", "\x1f\x8b", openGzip},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"xz", "\xfd7zXZ\x00", openXZ},
	{"lz4", lz4Magic, openLZ4},
	{"bzip2", "BZh", nil},
	{"lzma", "\x5d\x00\x00", nil},
	{"lzo", "\x89\x4c\x5a", nil},
}

// maxWindow is the largest window or dictionary, in bytes. It is zstd's limit in the kernel (__unzstd). For
// xz, the kernel tries to allocate up to 3 GiB (xz_dec_lzma2_reset), which succeeds or fails with the memory
// of the enclave.
const maxWindow = 128 << 20

// Stream is one compressed stream, which may be followed by others.
type Stream struct {
	io.Reader
	name string
	size func() int64
	open bool
}

// Size returns the compressed size, in bytes. It is known once Read has returned [io.EOF].
func (s *Stream) Size() int64 { return s.size() }

// Open reports whether the stream has no end of its own: the kernel takes what follows for more of it. It is
// known once Read has returned [io.EOF].
func (s *Stream) Open() bool { return s.open }

// Next returns the stream that r starts with, by the format that its first bytes name, or nil if they name
// none.
func Next(r io.ReaderAt, size int64) (*Stream, error) {
	head := make([]byte, 6)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, f := range formats {
		if !bytes.HasPrefix(head[:n], []byte(f.magic)) {
			continue
		}
		if f.open == nil {
			return nil, fmt.Errorf("compressed with %s: expected gzip, zstd, xz or lz4", f.name)
		}
		s, err := f.open(io.NewSectionReader(r, 0, size))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		s.name = f.name
		return s, nil
	}
	return nil, nil
}

// Open returns a reader of what r holds uncompressed, if it is one stream of gzip, zstd or xz and nothing but
// zeros behind it; or nil if its first bytes name no format.
func Open(r io.ReaderAt, size int64) (io.Reader, error) {
	s, err := Next(r, size)
	if s == nil || err != nil {
		return nil, err
	}
	if s.name == "lz4" {
		return nil, errors.New("compressed with lz4: expected gzip, zstd or xz")
	}
	return single{s, io.NewSectionReader(r, 0, size)}, nil
}

type single struct {
	*Stream
	file *io.SectionReader
}

func (s single) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != io.EOF {
		return n, err
	}
	at, err := SkipZeros(s.file, s.Size())
	if err != nil {
		return n, err
	}
	if at < s.file.Size() {
		return n, errors.New("data follows the compressed stream")
	}
	return n, io.EOF
}

// ReadAll returns what a file holds, uncompressed if it is a stream as of [Open]. It fails if that is more
// than most bytes.
func ReadAll(f *os.File, most int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := Open(f, info.Size())
	if err != nil {
		return nil, err
	}
	if r == nil {
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return b, err
}

// SkipZeros returns the place of the first byte other than zero from a place on, or the size.
func SkipZeros(r *io.SectionReader, from int64) (int64, error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.ReadAt(buf, from)
		if rest := bytes.TrimLeft(buf[:n], "\x00"); len(rest) > 0 {
			return from + int64(n-len(rest)), nil
		}
		from += int64(n)
		if err == io.EOF {
			return from, nil
		}
		if err != nil {
			return from, err
		}
	}
}

// openGzip reads one member. __gunzip passes over ten bytes and a file name (FNAME, RFC 1952). It takes the
// other optional parts of a header for compressed data.
func openGzip(r *io.SectionReader) (*Stream, error) {
	const fname = 1 << 3
	in := bufio.NewReader(r)
	if head, err := in.Peek(4); err == nil && head[3]&^fname != 0 {
		return nil, fmt.Errorf("header with flags %#02x: the kernel reads a file name (%#02x) only, "+
			"and may unpack something else", head[3], fname)
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &Stream{Reader: z, size: func() int64 {
		at, _ := r.Seek(0, io.SeekCurrent)
		return at - int64(in.Buffered())
	}}, nil
}

// openZstd reads one frame without a dictionary (RFC 8878, 3.1.1), as __unzstd does.
func openZstd(r *io.SectionReader) (*Stream, error) {
	in := newCounter(r)
	if err := zstdFrame(in); err != nil {
		return nil, noEOF(err)
	}
	d, err := zstd.NewReader(io.NewSectionReader(r, 0, in.at), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return &Stream{Reader: d.IOReadCloser(), size: func() int64 { return in.at }}, nil
}

// counter counts the bytes that are read with its methods.
type counter struct {
	*bufio.Reader
	file *io.SectionReader
	at   int64
}

func newCounter(r *io.SectionReader) *counter { return &counter{Reader: bufio.NewReader(r), file: r} }

// next returns the next n bytes, up to the size of the buffer.
func (c *counter) next(n int) ([]byte, error) {
	b, err := c.Peek(n)
	if err != nil {
		return nil, err
	}
	_, err = c.Discard(n)
	c.at += int64(n)
	return b, err
}

// skip does not read what it passes over.
func (c *counter) skip(n int) error {
	c.at += int64(n)
	if n <= c.Buffered() {
		_, err := c.Discard(n)
		return err
	}
	if c.at > c.file.Size() {
		return io.ErrUnexpectedEOF
	}
	_, err := c.file.Seek(c.at, io.SeekStart)
	c.Reset(c.file)
	return err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// zstdFrame reads up to the end of a frame, without decompressing it.
func zstdFrame(r *counter) error {
	head, err := r.next(5)
	if err != nil {
		return err
	}
	const (
		dictionary    = 0b11
		checksum      = 1 << 2
		singleSegment = 1 << 5
	)
	flags := head[4]
	if flags&dictionary != 0 {
		return errors.New("frame with a dictionary: the kernel has none")
	}
	fields := []int{0, 2, 4, 8}[flags>>6] // the size of the content
	if flags&singleSegment == 0 || fields == 0 {
		fields++ // the window, or the size of the content in one byte
	}
	if err := r.skip(fields); err != nil {
		return err
	}
	for last := false; !last; {
		b, err := r.next(3)
		if err != nil {
			return err
		}
		h := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		size := int(h >> 3)
		if h>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if err := r.skip(size); err != nil {
			return err
		}
		last = h&1 != 0
	}
	if flags&checksum != 0 {
		return r.skip(4)
	}
	return nil
}

// openXZ reads one stream whose check is none or CRC32: the kernel has no other (dec_stream_header).
func openXZ(r *io.SectionReader) (*Stream, error) {
	in := newCounter(r)
	if err := xzStream(in); err != nil {
		return nil, noEOF(err)
	}
	// With a larger dictionary than its header's, a block would be read that the kernel rejects.
	z, err := xz.ReaderConfig{SingleStream: true, DictCap: lzma.MinDictCap}.
		NewReader(bufio.NewReader(io.NewSectionReader(r, 0, in.at)))
	if err != nil {
		return nil, err
	}
	return &Stream{Reader: z, size: func() int64 { return in.at }}, nil
}

// xzStream reads up to the end of a stream, without decompressing it. What it does not look at, the library
// checks.
func xzStream(r *counter) error {
	head, err := r.next(12)
	if err != nil {
		return err
	}
	check := head[7]
	if check > 1 {
		return fmt.Errorf("stream with check %d: the kernel reads none (0) or CRC32 (1)", check)
	}
	// The library allocates and clears a dictionary for each block.
	dictionaries, content := int64(0), int64(0)
	for {
		size, err := r.Peek(1)
		if err != nil {
			return err
		}
		if size[0] == 0 {
			break
		}
		h, err := r.next(4 * (int(size[0]) + 1))
		if err != nil {
			return err
		}
		dictionary, err := xzDictionary(h)
		if err != nil {
			return err
		}
		dictionaries += dictionary
		if dictionary > maxWindow {
			return fmt.Errorf("block with a dictionary of %d bytes, expected at most %d: "+
				"the kernel may not be able to allocate it", dictionary, maxWindow)
		}
		n, err := lzma2(r)
		if err != nil {
			return err
		}
		content += n
		if dictionaries > maxWindow+64*content {
			return fmt.Errorf("blocks of %d bytes with dictionaries of %d bytes: too many to read",
				content, dictionaries)
		}
		if err := r.skip(int(-r.at&3) + 4*int(check)); err != nil {
			return err
		}
	}
	return xzEnd(r)
}

// xzDictionary returns the size of the dictionary in the header of a block with LZMA2 as its only filter.
func xzDictionary(h []byte) (int64, error) {
	unsupported := errors.New("block with other filters than LZMA2: the kernel reads none")
	if h[1]&0x3f != 0 {
		return 0, unsupported
	}
	rest := h[2:]
	for sizes := h[1] >> 6; sizes != 0; sizes &= sizes - 1 { // compressed, uncompressed
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, errors.New("invalid block header")
		}
		rest = rest[n:]
	}
	if len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 {
		return 0, unsupported
	}
	return lzma.DecodeDictCap(rest[2])
}

// lzma2 reads up to the end of a block's chunks, and returns their uncompressed size.
func lzma2(r *counter) (size int64, err error) {
	for {
		control, err := r.next(1)
		if err != nil || control[0] == 0 {
			return size, err
		}
		c := control[0]
		sizes, err := r.next(2)
		if err != nil {
			return size, err
		}
		n := int(binary.BigEndian.Uint16(sizes)) + 1
		size += int64(n)
		if c >= 0x80 { // compressed: five more bits, the compressed size, and properties
			size += int64(c&0x1f) << 16
			if sizes, err = r.next(2); err != nil {
				return size, err
			}
			n = int(binary.BigEndian.Uint16(sizes)) + 1
			if c >= 0xc0 {
				n++
			}
		}
		if err := r.skip(n); err != nil {
			return size, err
		}
	}
}

// xzEnd reads the index and the footer.
func xzEnd(r *counter) error {
	start := r.at
	number := func() (v uint64, err error) {
		for shift := 0; shift < 63; shift += 7 {
			b, err := r.next(1)
			if err != nil {
				return 0, err
			}
			v |= uint64(b[0]&0x7f) << shift
			if b[0] < 0x80 {
				return v, nil
			}
		}
		return 0, errors.New("invalid number in the index")
	}
	if err := r.skip(1); err != nil {
		return err
	}
	records, err := number()
	for ; err == nil && records > 0; records-- {
		if _, err = number(); err == nil {
			_, err = number()
		}
	}
	if err != nil {
		return err
	}
	const sum, footer = 4, 12
	return r.skip(int((start-r.at)&3) + sum + footer)
}
