package pack

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// zboot wraps a payload as the kernel's build does.
func zboot(method string, payload []byte) []byte {
	const at = 512
	b := make([]byte, at)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], at)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	copy(b[24:], method)
	return append(append(b, payload...), 0xde, 0xad, 0xbe, 0xef) // a size, and more
}

func TestUnwrap(t *testing.T) {
	image := make([]byte, 100_000)
	copy(image[56:], "ARM\x64")
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write(image)
	w.Close()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kernel []byte
		err    string
	}{
		"gzip":               {zboot("gzip", zipped.Bytes()), ""},
		"zstd":               {zboot("zstd22", encoder.EncodeAll(image, nil)), ""},
		"lzma":               {zboot("lzma", []byte("\x5d\x00\x00\x80\x00")), `("lzma"): compressed with lzma`},
		"another payload":    {zboot("gzip", []byte("nothing")), "expected gzip or zstd"},
		"truncated":          {zboot("gzip", zipped.Bytes())[:560], "is truncated: its payload ends at byte"},
		"not an Image in it": {zboot("zstd", encoder.EncodeAll(make([]byte, 500), nil)), "magic at byte 56"},
	} {
		got, err := unwrap(io.NewSectionReader(bytes.NewReader(c.kernel), 0, int64(len(c.kernel))))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := io.ReadAll(got)
		want := bytes.Clone(image)
		binary.LittleEndian.PutUint64(want[8:], kernel.TextOffset)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes (%v), want the Image with its text_offset", name, len(b), err)
		}
	}
	plain := io.NewSectionReader(bytes.NewReader(image), 0, int64(len(image)))
	if got, err := unwrap(plain); got != plain || err != nil {
		t.Errorf("an Image is not left alone: %v", err)
	}
}
