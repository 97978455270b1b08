package debian

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Data returns the file tree of a Debian package as an uncompressed tar archive.
func Data(deb io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(deb, 1<<16)
	const magic = "!<arch>\n"
	got := make([]byte, len(magic))
	if n, err := io.ReadFull(r, got); string(got) != magic {
		return nil, errors.Join(fmt.Errorf("not a Debian package: expected magic %q, found %q", magic,
			got[:n]), err)
	}
	for {
		// ar(5): name 16, time 12, uid 6, gid 6, mode 8, size 10 in decimal, "`\n"; members start at even
		// offsets.
		var header [60]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return nil, fmt.Errorf("package has no data.tar: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("package member %q: damaged header", name)
		}
		if compression, ok := strings.CutPrefix(name, "data.tar"); ok {
			return decompress(compression, &member{r: io.LimitedReader{R: r, N: size}})
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("package member %q: truncated: %w", name, err)
		}
	}
}

// member reads an ar member. It fails if the file ends before the member.
type member struct{ r io.LimitedReader }

func (m *member) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err == io.EOF && m.r.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func decompress(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case "":
		return r, nil
	case ".xz":
		return xz.NewReader(r, 0)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".gz":
		return gzip.NewReader(r)
	}
	return nil, fmt.Errorf("data.tar%s: unknown compression: expected .xz, .zst or .gz", suffix)
}
