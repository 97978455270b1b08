package compression

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The legacy form of lz4, which `lz4 -l` writes and unlz4 reads: blocks of at most 8 MiB, each after its
// compressed size, up to a size of 0 or the end. No library reads it as the kernel does:
// LZ4_decompress_generic rejects blocks that do not end in literals.
const (
	lz4Magic = "\x02\x21\x4c\x18"
	lz4Block = 8 << 20
	lz4Bound = lz4Block + lz4Block/255 + 16 // LZ4_compressBound: the largest compressed size
)

type lz4Reader struct {
	*Stream
	in    *counter
	block []byte
	out   []byte // what is left of the current block, uncompressed
	all   []byte
}

func openLZ4(r *io.SectionReader) (*Stream, error) {
	in := newCounter(r)
	s := &Stream{size: func() int64 { return in.at }}
	s.Reader = &lz4Reader{Stream: s, in: in}
	return s, nil
}

func (z *lz4Reader) Read(p []byte) (int, error) {
	for len(z.out) == 0 {
		head, err := z.in.Peek(4)
		if err == io.EOF { // up to three bytes that follow are not part of the stream
			z.open = true
		}
		if err != nil {
			return 0, err
		}
		size := binary.LittleEndian.Uint32(head)
		if size == 0 {
			return 0, io.EOF
		}
		if err := z.in.skip(4); err != nil {
			return 0, err
		}
		if string(head) == lz4Magic {
			continue
		}
		if size > lz4Bound || int64(size) > z.in.file.Size()-z.in.at {
			return 0, fmt.Errorf("lz4 block of %d bytes, expected at most %d, and to end before byte %d",
				size, lz4Bound, z.in.file.Size())
		}
		if z.all == nil {
			z.all = make([]byte, 0, lz4Block)
		}
		z.block = append(z.block[:0], make([]byte, size)...)
		if _, err := io.ReadFull(z.in, z.block); err != nil {
			return 0, err
		}
		z.in.at += int64(size)
		if z.out, err = uncompressLZ4(z.all, z.block); err != nil {
			return 0, fmt.Errorf("lz4 block that ends at byte %d: %w", z.in.at, err)
		}
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}

var errLZ4 = errors.New("invalid data")

// uncompressLZ4 appends the content of a block to out, within its capacity. It accepts what
// LZ4_decompress_generic does; the numbers are its LASTLITERALS, MFLIMIT and MINMATCH.
func uncompressLZ4(out, in []byte) ([]byte, error) {
	// length reads the rest of a length of 15, and keeps some bytes of the input.
	length := func(n, keep int) (int, error) {
		for more := byte(255); n >= 15 && more == 255; n += int(more) {
			if len(in) <= keep {
				return 0, errLZ4
			}
			more, in = in[0], in[1:]
		}
		return n, nil
	}
	const lastLiterals, matchLimit, minMatch = 5, 12, 4
	for len(in) > 0 {
		token := int(in[0])
		in = in[1:]
		literals, err := length(token>>4, 0)
		if err != nil || literals > len(in) || literals > cap(out)-len(out) {
			return nil, errLZ4
		}
		out, in = append(out, in[:literals]...), in[literals:]
		if len(in) == 0 {
			return out, nil
		}
		if len(in) < 2+1+lastLiterals || len(out) > cap(out)-matchLimit {
			return nil, errLZ4
		}
		offset := int(binary.LittleEndian.Uint16(in))
		in = in[2:]
		match, err := length(token&15, lastLiterals)
		match += minMatch
		if err != nil || offset == 0 || offset > len(out) || match > cap(out)-lastLiterals-len(out) {
			return nil, errLZ4
		}
		for from := len(out) - offset; match > 0; {
			n := min(match, len(out)-from)
			out = append(out, out[from:from+n]...)
			match -= n
		}
	}
	return nil, errLZ4
}
