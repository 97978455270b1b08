package compression

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const text = "the archive that everybody should see"

// member is a gzip member with the given flags and what follows its ten bytes of header.
func member(flags byte, extra, content string) []byte {
	b := bytes.NewBufferString("\x1f\x8b\x08" + string(flags) + "\x00\x00\x00\x00\x00\xff" + extra)
	w, _ := flate.NewWriter(b, 9)
	io.WriteString(w, content)
	w.Close()
	tail := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(content)))
	b.Write(binary.LittleEndian.AppendUint32(tail, uint32(len(content))))
	return b.Bytes()
}

func zstdFrame(t *testing.T, content string, options ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll([]byte(content), nil)
}

func xzStream(t *testing.T, content string, check byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: check}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOpen has streams that the kernel and common readers take for the same, and those that they do not,
// which are rejected.
func TestOpen(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	gz, zst := member(0, "", text), zstdFrame(t, text)
	crc := crc32.ChecksumIEEE([]byte("\x1f\x8b\x08\x02\x00\x00\x00\x00\x00\xff"))
	long := strings.Repeat(text, 40_000)
	skippable := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd")
	damaged := bytes.Clone(gz)
	damaged[len(damaged)-5] ^= 1
	for _, c := range []struct {
		name string
		file []byte
		want string // an error, or what is read
	}{
		{"gzip", gz, text},
		{"gzip with a file name", member(1<<3, "initrd.cpio\x00", text), text},
		{"gzip with zeros behind it", join(gz, make([]byte, 70_000)), text},
		{"gzip with an extra field", member(1<<2, "\x05\x00hello", text), "flags 0x04"},
		{"gzip with a comment", member(1<<4, "hello\x00", text), "flags 0x10"},
		{"gzip with a header checksum", member(1<<1, string([]byte{byte(crc), byte(crc >> 8)}), text), "flags 0x02"},
		{"gzip that says it is text", member(1, "", text), "flags 0x01"},
		{"gzip of two members", join(gz, gz), "data follows"},
		{"gzip with a byte behind zeros", join(gz, make([]byte, 70_000), []byte{1}), "data follows"},
		{"gzip with another checksum", damaged, "checksum"},
		{"gzip that is cut", gz[:len(gz)-9], "unexpected EOF"},
		{"zstd", zst, text},
		{"zstd in many blocks", zstdFrame(t, long, zstd.WithEncoderLevel(zstd.SpeedFastest)), long},
		{"zstd without checksum", zstdFrame(t, text, zstd.WithEncoderCRC(false)), text},
		{"zstd in a single segment", zstdFrame(t, text, zstd.WithSingleSegment(true)), text},
		{"zstd of repeated bytes", zstdFrame(t, strings.Repeat("a", 300_000)), strings.Repeat("a", 300_000)},
		{"zstd with zeros behind it", join(zst, make([]byte, 5)), text},
		{"zstd of two frames", join(zst, zst), "data follows"},
		{"zstd with a skippable frame", join(zst, skippable), "data follows"},
		{"zstd with a dictionary", []byte("\x28\xb5\x2f\xfd\x21\x07\x01\x00\x00"), "dictionary"},
		{"zstd that is cut", zst[:9], "unexpected EOF"},
		{"xz", xzStream(t, text, xz.CRC32), text},
		{"xz with CRC64", xzStream(t, text, xz.CRC64), "check 4"},
		{"xz with SHA-256", xzStream(t, text, xz.SHA256), "check 10"},
		{"xz of two streams", join(xzStream(t, text, xz.CRC32), xzStream(t, text, xz.CRC32)), "unexpected data"},
		{"xz that is cut", xzStream(t, text, xz.CRC32)[:7], "unexpected EOF"},
		{"lz4", []byte("\x02\x21\x4c\x18abc"), "compressed with lz4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Open(bytes.NewReader(c.file), int64(len(c.file)))
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
			}
			switch {
			case err == nil && string(got) != c.want:
				t.Errorf("read %d bytes, expected an error or the content: %.60q", len(got), c.want)
			case err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("got %q, expected %.60q", err, c.want)
			}
		})
	}
	if r, err := Open(strings.NewReader("070701"), 6); r != nil || err != nil {
		t.Errorf("a plain archive: %v, %v", r, err)
	}
}
