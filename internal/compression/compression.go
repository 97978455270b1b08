// Package compression reads what the kernel reads compressed, ramdisks and modules, as the kernel's own
// decompressors do (lib/decompress*.c): one stream, and nothing that another reader would take for something
// else. What a common library reads in another way than the kernel is rejected, because a user who inspects
// an image must see what boots.
package compression

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// formats are those of lib/decompress.c, by their first bytes. Those without open are recognized but not
// read.
var formats = []struct {
	name, magic string
	open        func(*io.SectionReader) (io.Reader, error)
}{
	{"gzip", "\x1f\x8b", openGzip},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"xz", "\xfd7zXZ\x00", openXZ},
	{"lz4", "\x02\x21\x4c\x18", nil},
	{"lz4", "\x03\x21\x4c\x18", nil},
	{"bzip2", "BZh", nil},
	{"lzma", "\x5d\x00\x00", nil},
	{"lzo", "\x89\x4c\x5a", nil},
}

// Open returns a reader of what r holds uncompressed, by the format that its first bytes name, or nil if they
// name none.
func Open(r io.ReaderAt, size int64) (io.Reader, error) {
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
			return nil, fmt.Errorf("compressed with %s: expected gzip, zstd or xz", f.name)
		}
		in, err := f.open(io.NewSectionReader(r, 0, size))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		return in, nil
	}
	return nil, nil
}

// stream is one compressed stream. Only zeros may follow it: the kernel skips them, and takes anything else
// for the start of a next archive (init/initramfs.c, unpack_to_rootfs).
type stream struct {
	io.Reader
	rest io.Reader // what follows in the file
}

func (s stream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	buf := make([]byte, 32<<10)
	for {
		m, err := s.rest.Read(buf)
		if len(bytes.Trim(buf[:m], "\x00")) > 0 {
			return n, fmt.Errorf("data follows the compressed stream: the kernel may unpack something else")
		}
		if err != nil {
			return n, err
		}
	}
}

// openGzip reads one member. lib/decompress_inflate.c passes over ten bytes and a file name (FNAME, RFC
// 1952). It takes the other optional parts of a header for compressed data.
func openGzip(r *io.SectionReader) (io.Reader, error) {
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
	return stream{z, in}, nil
}

// openZstd reads one frame without a dictionary (RFC 8878, 3.1.1): lib/decompress_unzstd.c decompresses the
// first frame.
func openZstd(r *io.SectionReader) (io.Reader, error) {
	size, err := frameSize(r)
	if err != nil {
		return nil, err
	}
	const window = 128 << 20 // the largest that the kernel takes
	d, err := zstd.NewReader(io.NewSectionReader(r, 0, size), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, err
	}
	return stream{d.IOReadCloser(), io.NewSectionReader(r, size, r.Size()-size)}, nil
}

// frameSize returns the compressed size of the frame at the start of r, in bytes.
func frameSize(r io.ReaderAt) (int64, error) {
	head := make([]byte, 5)
	if _, err := r.ReadAt(head, 0); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	const (
		dictionary    = 0b11
		checksum      = 1 << 2
		singleSegment = 1 << 5
	)
	flags := head[4]
	if flags&dictionary != 0 {
		return 0, fmt.Errorf("frame with a dictionary: the kernel has none")
	}
	at := int64(5) + []int64{0, 2, 4, 8}[flags>>6] // the size of the content
	if flags&singleSegment == 0 {
		at++ // the window
	} else if flags>>6 == 0 {
		at++ // the size of the content, in one byte
	}
	for {
		var block [4]byte
		if _, err := r.ReadAt(block[:3], at); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		h := binary.LittleEndian.Uint32(block[:])
		size := int64(h >> 3)
		if h>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if at += 3 + size; h&1 != 0 {
			break
		}
	}
	if flags&checksum != 0 {
		at += 4
	}
	return at, nil
}

// openXZ reads one stream whose check is none or CRC32: lib/xz has no other. The library rejects data that
// follows.
func openXZ(r *io.SectionReader) (io.Reader, error) {
	var head [8]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if check := head[7]; check > 1 {
		return nil, fmt.Errorf("stream with check %d: the kernel reads none (0) or CRC32 (1)", check)
	}
	return xz.ReaderConfig{SingleStream: true}.NewReader(bufio.NewReader(r))
}
