// Package compression reads what the kernel reads compressed: ramdisks and modules.
package compression

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// formats are those of lib/decompress.c in the kernel source, by their first bytes. Those without open are
// recognized but not read.
var formats = []struct {
	name, magic string
	open        func(io.Reader) (io.Reader, error)
}{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader) (io.Reader, error) { return xz.NewReader(bufio.NewReader(r)) }},
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
