package compression

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
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

func zstdOf(t *testing.T, content string, options ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll([]byte(content), nil)
}

func xzOf(t *testing.T, content string, check byte) []byte {
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

// xzDict is an xz stream of one block, whose header has the given size of the dictionary (LZMA2's property).
func xzDict(t *testing.T, dictionary byte) []byte { return xzBlocks(t, 1, dictionary) }

// xzBlocks is an xz stream of blocks, each of which holds the text as it is.
func xzBlocks(t *testing.T, blocks int, dictionary byte) []byte {
	sum := func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }
	flags := []byte{0, 0}
	head := sum([]byte{2, 0, 0x21, 1, dictionary, 0, 0, 0})
	chunk := append([]byte{1, 0, byte(len(text) - 1)}, text+"\x00"...)
	out := append([]byte("\xfd7zXZ\x00"), sum(flags)...)
	index := binary.AppendUvarint([]byte{0}, uint64(blocks))
	for range blocks {
		out = append(append(out, head...), chunk...)
		index = binary.AppendUvarint(index, uint64(len(head)+len(chunk)))
		index = binary.AppendUvarint(index, uint64(len(text)))
		out = append(out, make([]byte, -len(chunk)&3)...)
	}
	index = sum(append(index, make([]byte, -len(index)&3)...))
	back := append(binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1)), flags...)
	out = append(append(out, index...), sum(back)[6:]...)
	return append(append(out, back...), "YZ"...)
}

// lz4Of is the legacy form of lz4: a block of literals.
func lz4Of(content string) []byte {
	block := []byte{0xf0, byte(len(content) - 15)}
	out := binary.LittleEndian.AppendUint32([]byte(lz4Magic), uint32(len(block)+len(content)))
	return append(append(out, block...), content...)
}

// TestNext reads a stream with others behind it, and wants to know where it ends.
func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		stream, more []byte
		open         bool
	}{
		"gzip":           {member(8, "name\x00", text), member(0, "", text), false},
		"zstd":           {zstdOf(t, text), []byte("\x00\x00x"), false},
		"xz":             {xzOf(t, text, xz.CRC32), xzOf(t, text, xz.CRC32), false},
		"lz4":            {append(lz4Of(text[:20]), lz4Of(text[20:])...), nil, true},
		"lz4 with zeros": {lz4Of(text), []byte("\x00\x00\x00\x00x"), false},
		"lz4 with less":  {lz4Of(text), []byte("\x00\x00\x00"), true},
	} {
		t.Run(name, func(t *testing.T) {
			file := bytes.Join([][]byte{c.stream, c.more}, nil)
			s, err := Next(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(s)
			if err != nil || string(got) != text || s.Size() != int64(len(c.stream)) || s.Open() != c.open {
				t.Errorf("read %q, %d bytes of %d, open %v (%v)", got, s.Size(), len(c.stream), s.Open(), err)
			}
		})
	}
}

// TestWalk counts what is read to find the end of a stream of 400 kB: its headers, not its data.
func TestWalk(t *testing.T) {
	data := make([]byte, 400_000)
	rand.NewChaCha8([32]byte{}).Read(data)
	for name, file := range map[string][]byte{"zstd": zstdOf(t, string(data)),
		"xz": xzOf(t, string(data), xz.CRC32)} {
		in := &counted{ReaderAt: bytes.NewReader(file)}
		if _, err := Next(in, int64(len(file))); err != nil {
			t.Fatal(err)
		}
		if in.bytes > len(file)/4 {
			t.Errorf("%s: read %d of %d bytes", name, in.bytes, len(file))
		}
	}
}

type counted struct {
	io.ReaderAt
	bytes int
}

func (c *counted) ReadAt(p []byte, at int64) (int, error) {
	c.bytes += len(p)
	return c.ReaderAt.ReadAt(p, at)
}

// TestLZ4 has blocks that LZ4_decompress_generic rejects, and what it makes of others.
func TestLZ4(t *testing.T) {
	for _, c := range []struct{ name, block, want string }{
		{"literals", "\x50hello", "hello"},
		{"a match", "\x10a\x01\x00\x50bcdef", "aaaaabcdef"},
		{"a long match", "\x1fa\x01\x00\xff\x00\x50bcdef", strings.Repeat("a", 1+15+255+4) + "bcdef"},
		{"an overlapping match", "\x31abc\x02\x00\x50bcdef", "abcbcbcbbcdef"[:8] + "bcdef"},
		{"nothing", "\x00", ""},
		{"four literals at the end", "\x10a\x01\x00\x40bcde", "error"},
		{"no literals at the end", "\x10a\x01\x00", "error"},
		{"offset 0", "\x10a\x00\x00\x50bcdef", "error"},
		{"an offset before the block", "\x10a\x02\x00\x50bcdef", "error"},
		{"too few literals", "\x60hello", "error"},
		{"a length without an end", "\xf0\xff\xff", "error"},
		{"more than fits", "\x1fa\x01\x00" + strings.Repeat("\xff", 5) + "\x00\x50bcdef", "error"},
	} {
		out, err := uncompressLZ4(make([]byte, 0, 1000), []byte(c.block))
		if got := string(out); err == nil && got != c.want || err != nil && c.want != "error" {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// TestOpen has streams that the kernel and common readers take for the same, and those that they do not,
// which are rejected.
func TestOpen(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	gz, zst := member(0, "", text), zstdOf(t, text)
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
		{"gzip with a header checksum", member(1<<1, string([]byte{byte(crc), byte(crc >> 8)}), text),
			"flags 0x02"},
		{"gzip that says it is text", member(1, "", text), "flags 0x01"},
		{"gzip of two members", join(gz, gz), "data follows"},
		{"gzip with a byte behind zeros", join(gz, make([]byte, 70_000), []byte{1}), "data follows"},
		{"gzip with another checksum", damaged, "checksum"},
		{"gzip that is cut", gz[:len(gz)-9], "unexpected EOF"},
		{"zstd", zst, text},
		{"zstd in many blocks", zstdOf(t, long, zstd.WithEncoderLevel(zstd.SpeedFastest)), long},
		{"zstd without checksum", zstdOf(t, text, zstd.WithEncoderCRC(false)), text},
		{"zstd in a single segment", zstdOf(t, text, zstd.WithSingleSegment(true)), text},
		{"zstd of repeated bytes", zstdOf(t, strings.Repeat("a", 300_000)), strings.Repeat("a", 300_000)},
		{"zstd with zeros behind it", join(zst, make([]byte, 5)), text},
		{"zstd of two frames", join(zst, zst), "data follows"},
		{"zstd with a skippable frame", join(zst, skippable), "data follows"},
		{"zstd with a dictionary", []byte("\x28\xb5\x2f\xfd\x21\x07\x01\x00\x00"), "dictionary"},
		{"zstd that is cut", zst[:9], "unexpected EOF"},
		{"xz", xzOf(t, text, xz.CRC32), text},
		{"xz with CRC64", xzOf(t, text, xz.CRC64), "check 4"},
		{"xz with SHA-256", xzOf(t, text, xz.SHA256), "check 10"},
		{"xz of two streams", join(xzOf(t, text, xz.CRC32), xzOf(t, text, xz.CRC32)), "data follows"},
		{"xz that is cut", xzOf(t, text, xz.CRC32)[:7], "unexpected EOF"},
		{"xz with a dictionary of 192 MiB", xzDict(t, 31), "dictionary of 201326592 bytes"},
		{"xz with a dictionary of 128 MiB", xzDict(t, 30), text},
		{"xz of many blocks with dictionaries of 128 MiB", xzBlocks(t, 2000, 30), "too many to read"},
		{"xz of many blocks", xzBlocks(t, 2000, 0), strings.Repeat(text, 2000)},
		{"lz4", lz4Of(text), "compressed with lz4"},
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
