package unpack_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// record is an entry of a newc archive as it is written: nothing of it needs to be right.
type record struct {
	name, body string
	field      [13]uint32 // inode, mode, uid, gid, links, time, size, device (2), rdev (2), size of name, sum
	magic      string
	digits     string // of the fields, instead of field
	padding    byte   // what fills up to a multiple of four
	after      int    // zeros after the entry
}

// Fields of a record.
const (
	inode = iota
	mode
	uid
	gid
	links
	mtime
	size
	deviceMajor
	deviceMinor
	rdevMajor
	rdevMinor
	nameSize
	sum
)

func (r record) bytes() []byte {
	digits := r.digits
	if digits == "" {
		for _, v := range r.field {
			digits += fmt.Sprintf("%08x", v)
		}
	}
	b := []byte(r.magic + digits + r.name + "\x00")
	pad := func() { b = append(b, bytes.Repeat([]byte{r.padding}, -len(b)&3)...) }
	pad()
	b = append(b, r.body...)
	pad()
	return append(b, make([]byte, r.after)...)
}

// maker makes ramdisks from a seed. what lists what is odd about the last one, for people; one without
// anything odd must be accepted.
type maker struct {
	*rand.Rand
	t    testing.TB
	what []string
	calm bool // entries are not changed
}

func (m *maker) one(n int) bool { return m.IntN(n) == 0 }

func pick[T any](m *maker, all ...T) T { return all[m.IntN(len(all))] }

func (m *maker) odd(format string, args ...any) {
	m.what = append(m.what, fmt.Sprintf(format, args...))
}

func (m *maker) text(most int) string {
	b := make([]byte, m.IntN(most+1))
	for i := range b {
		b[i] = "abcdefgh\n\x00\xff0"[m.IntN(12)]
	}
	return string(b)
}

// ramdisks makes the ramdisks of an enclave. The kernel gets them joined.
func (m *maker) ramdisks() [][]byte {
	m.what, m.calm = nil, m.one(2)
	var all [][]byte
	for range 1 + m.IntN(3) {
		var disk []byte
		for part := range 1 + m.IntN(3)*m.IntN(2) {
			prefix := fmt.Sprintf("%c%d", 'p'+len(all), part)
			archive := m.archive(m.tree(prefix))
			if m.one(6) {
				archive = append(archive, make([]byte, 4*m.IntN(200))...)
				archive = append(archive, m.archive(m.tree(prefix+"2"))...)
			}
			if m.one(12) {
				archive = m.damage("archive", archive)
			}
			disk = append(disk, m.compress(archive)...)
			if m.one(6) {
				disk = append(disk, make([]byte, 4*m.IntN(200))...)
			}
		}
		if m.one(12) {
			disk = m.damage("ramdisk", disk)
		}
		all = append(all, disk)
	}
	if m.one(20) {
		m.odd("bytes before a ramdisk")
		all[len(all)-1] = append([]byte(pick(m, "\x00", "\x00\x00\x00\x00", "x", "0", "070701")),
			all[len(all)-1]...)
	}
	return all
}

// tree makes entries, the directories before what is in them.
func (m *maker) tree(top string) []record {
	dirs := []string{top}
	var all []record
	add := func(name string, kind uint32, body string) *record {
		r := record{name: name, body: body, magic: "070701"}
		r.field = [13]uint32{
			uint32(len(all) + 1), kind | m.Uint32N(0o10000), m.Uint32N(3), m.Uint32N(70000), 1, m.Uint32(),
			uint32(len(body)), 0, 0, 0, 0, uint32(len(name) + 1), 0,
		}
		all = append(all, r)
		return &all[len(all)-1]
	}
	add(top, 0o40000, "")
	for i := range m.IntN(10) {
		name := fmt.Sprintf("%s/%s%d", pick(m, dirs...), pick(m, "n", "name", "a b", "\x1b[2J", "ü", "x\ny"),
			i)
		switch m.IntN(8) {
		case 0, 1:
			add(name, 0o40000, "")
			dirs = append(dirs, name)
		case 2:
			add(name, 0o120000, "../"+strings.ReplaceAll(m.text(30), "\x00", "."))
		case 3:
			r := add(name, pick[uint32](m, 0o20000, 0o60000), "")
			r.field[rdevMajor], r.field[rdevMinor] = m.Uint32N(1<<12), m.Uint32N(1<<20)
		case 4:
			add(name, pick[uint32](m, 0o10000, 0o140000), "")
		case 5: // names of one file, the bytes with any of them
			body, with := m.text(50), m.IntN(3)
			first := len(all)
			for k := range 3 {
				r := add(fmt.Sprintf("%s-%d", name, k), 0o100000, "")
				if k == with {
					r.body, r.field[size] = body, uint32(len(body))
				}
				if k > 0 {
					number := r.field[nameSize]
					for f := range r.field {
						if f != size {
							r.field[f] = all[first].field[f]
						}
					}
					r.field[nameSize] = number
				}
				r.field[links] = 3
			}
		default:
			add(name, 0o100000, m.text(pick(m, 3, 100, 5000)))
		}
	}
	if top == "p0" && m.one(4) {
		add("dev", 0o40000, "")
		r := add("dev/console", 0o20000, "")
		r.field[rdevMajor], r.field[rdevMinor] = 5, 1
	}
	for !m.calm && m.one(2) {
		m.change(&all)
	}
	return all
}

// archive joins entries and the trailer.
func (m *maker) archive(entries []record) []byte {
	end := record{name: "TRAILER!!!", magic: "070701"}
	end.field[links], end.field[nameSize] = 1, 11
	if m.one(20) {
		m.odd("another trailer")
		switch m.IntN(7) {
		case 0:
			end.body, end.field[size] = "body", 4
		case 1:
			end.field[mode] = 0o120000
		case 2:
			end.field[mode] = pick[uint32](m, 0o40000, 0o100000, 0o20000, 0o170000)
		case 3:
			end.name, end.field[nameSize] = end.name+"\x00"+pick(m, "\x00\x00", "x", "\x00\x00\x00\x00\x00"),
				20
		case 4:
			end.name = "trailer!!!"
		case 5:
			end.field[size] = m.Uint32N(5000)
		case 6:
			end.field[links], end.field[inode] = 2, 1
		}
	}
	if m.one(30) {
		m.odd("no trailer")
		end = record{}
	}
	var b []byte
	for _, r := range entries {
		b = append(b, r.bytes()...)
	}
	if end.magic != "" {
		b = append(b, end.bytes()...)
	}
	return b
}

// damage changes some bytes, or the length.
func (m *maker) damage(what string, b []byte) []byte {
	m.odd("damaged %s", what)
	b = bytes.Clone(b)
	switch m.IntN(4) {
	case 0:
		return b[:m.IntN(len(b)+1)]
	case 1:
		return append(b, pick(m, "\x00", "\x00\x00\x00", "0", "x", "07070100", "\x1f\x8b",
			"\x00\x1f\x8b\x08\x00")...)
	}
	for range 1 + m.IntN(3) {
		if len(b) > 0 {
			b[m.IntN(len(b))] = pick(m, 0, '0', 'f', '/', 0x80, byte(m.Uint32()))
		}
	}
	return b
}

// change makes one thing of a tree odd.
func (m *maker) change(entries *[]record) {
	all := *entries
	at := m.IntN(len(all))
	r := &all[at]
	rename := func(name string) {
		r.name, r.field[nameSize] = name, uint32(len(name)+1)
	}
	resize := func(body string) {
		r.body, r.field[size] = body, uint32(len(body))
	}
	insert := func(r record) {
		*entries = append(all[:at+1:at+1], append([]record{r}, all[at+1:]...)...)
	}
	kinds := []uint32{0o40000, 0o100000, 0o120000, 0o20000, 0o60000, 0o10000, 0o140000, 0, 0o170000, 0o30000}
	switch m.IntN(28) {
	case 0:
		m.odd("%q is dropped", r.name)
		if len(all) > 1 {
			*entries = append(all[:at:at], all[at+1:]...)
		}
	case 1:
		other := m.IntN(len(all))
		m.odd("%q and %q are exchanged", r.name, all[other].name)
		all[at], all[other] = all[other], all[at]
	case 2:
		m.odd("%q twice", r.name)
		again := all[m.IntN(at+1)]
		again.field[mtime]++
		insert(again)
	case 3:
		m.odd("%q again, of another type", r.name)
		again := *r
		again.field[mode] = pick(m, kinds...) | again.field[mode]&0o7777
		insert(again)
	case 4:
		was := r.name
		rename(pick(m, "./"+was, "/"+was, "//"+was, "../"+was, was+"/", was+"//", was+"/.", "./", ".", "/",
			"..", "",
			strings.Replace(was, "/", "//", 1), strings.Replace(was, "/", "/./", 1), was+"/../x", "x/../"+was,
			"././"+was, "/./"+was))
		m.odd("%q is called %q", was, r.name)
	case 5:
		long := strings.Repeat("x", pick(m, 254, 255, 256))
		m.odd("a part of %d bytes", len(long))
		rename(long)
	case 6:
		name := strings.Repeat("./", 2040) + strings.Repeat("y", pick(m, 14, 15, 16, 17))
		m.odd("a name of %d bytes", len(name))
		rename(name)
	case 7:
		m.odd("a NUL in %q", r.name)
		rename(r.name + pick(m, "\x00", "\x00\x00\x00", "\x00x", "\x00/../x"))
	case 8:
		r.field[nameSize] = pick(m, 0, 1, 2, r.field[nameSize]-1, r.field[nameSize]+1, 4096, 4097, 1<<31,
			1<<32-1)
		m.odd("the name %q has %d bytes", r.name, r.field[nameSize])
	case 9:
		r.field[size] = pick(m, 0, 1, r.field[size]-1, r.field[size]+1, r.field[size]+4, 1<<20, 1<<31,
			1<<32-1, 1<<32-4)
		m.odd("the body of %q has %d bytes", r.name, r.field[size])
	case 10:
		r.field[mode] = pick(m, kinds...) | r.field[mode]&0o7777
		m.odd("%q has mode %o", r.name, r.field[mode])
	case 11:
		r.field[mode] |= 1 << (16 + m.IntN(16))
		m.odd("%q has mode %o", r.name, r.field[mode])
	case 12:
		r.magic = pick(m, "070702", "070707", "070703", "070701"[:5]+" ", "O70701")
		if m.one(2) {
			for _, c := range []byte(r.body) {
				r.field[sum] += uint32(c)
			}
		}
		m.odd("%q has magic %q and sum %d", r.name, r.magic, r.field[sum])
	case 13:
		b := []byte(strings.ToUpper(string(r.bytes()[6:110])))
		r.digits = string(b)
		if m.one(2) {
			b[m.IntN(len(b))] = pick(m, byte('x'), 'g', ' ', '-', '+', 0, 'X')
			m.odd("%q has digits %q", r.name, b)
		} else if m.one(2) {
			copy(b[8*m.IntN(13):], "0x")
			m.odd("%q has digits %q", r.name, b)
		}
		r.digits = string(b)
	case 14:
		target := strings.Repeat("t", pick(m, 4094, 4095, 4096, 4097, 5000))
		m.odd("%q is a link to %d bytes", r.name, len(target))
		r.field[mode] = 0o120777
		resize(target)
	case 15:
		m.odd("%q is a link to something odd", r.name)
		r.field[mode] = 0o120777
		resize(pick(m, "", "a\x00b", "\x00", "a\x00", r.name, "/"))
	case 16:
		r.field[pick(m, uid, gid)] = ^uint32(m.IntN(2))
		m.odd("%q has owner %d:%d", r.name, r.field[uid], r.field[gid])
	case 17:
		r.field[mode] = pick[uint32](m, 0o20600, 0o60600)
		r.field[rdevMajor], r.field[rdevMinor] = pick[uint32](m, 0, 4095, 4096, 1<<20),
			pick[uint32](m, 0, 1<<20-1, 1<<20)
		resize("")
		m.odd("%q is the device %d:%d", r.name, r.field[rdevMajor], r.field[rdevMinor])
	case 18:
		other := all[m.IntN(len(all))]
		r.field[links], r.field[inode] = 2, other.field[inode]
		m.odd("%q has the inode of %q", r.name, other.name)
	case 19:
		other := &all[m.IntN(len(all))]
		r.field[links], other.field[links] = 2, pick[uint32](m, 0, 1, 2)
		r.field[inode], r.field[mode] = other.field[inode], other.field[mode]
		r.field[pick(m, deviceMajor, inode, uid, mtime, sum)] += m.Uint32N(2)
		m.odd("%q has the inode and mode of %q", r.name, other.name)
	case 20:
		r.field[links] = pick[uint32](m, 0, 2, 1<<32-1)
		m.odd("%q has %d links", r.name, r.field[links])
	case 21:
		name := pick(m, "dev/console", "dev", "root", "root/x", "dev/x", "TRAILER!!!", "./TRAILER!!!", "init")
		m.odd("%q is called %q", r.name, name)
		rename(name)
	case 22:
		link := record{name: all[0].name + "/link", body: pick(m, "/", ".", "../"+all[0].name, "/dev"),
			magic: "070701"}
		link.field = [13]uint32{99, 0o120777, 0, 0, 1, 0, uint32(len(link.body)), 0, 0, 0, 0,
			uint32(len(link.name) + 1), 0}
		m.odd("%q goes through %q to %q", r.name, link.name, link.body)
		insert(link)
		rename(link.name + "/x")
	case 23:
		r.padding = byte(m.Uint32())
		m.odd("%q is padded with %#x", r.name, r.padding)
	case 24:
		r.after = pick(m, 1, 2, 3, 4, 8, 512)
		m.odd("%d zeros after %q", r.after, r.name)
	case 25:
		m.odd("a trailer after %q", r.name)
		end := record{name: "TRAILER!!!", magic: "070701", after: pick(m, 0, 4, 508)}
		end.field[nameSize] = 11
		insert(end)
	case 26:
		m.odd("%q has a body", r.name)
		resize(m.text(40))
	case 27:
		name := strings.Repeat("x", 250)
		m.odd("a deep tree of %q", name[:5])
		for path := name; len(path) < 4090; path += "/" + name {
			dir := record{name: path, magic: "070701"}
			dir.field = [13]uint32{0, 0o40755, 0, 0, 2, 7, 0, 0, 0, 0, 0, uint32(len(path) + 1), 0}
			all = append(all, dir)
		}
		*entries = all
	}
}

func (m *maker) flate(b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, pick(m, 0, 1, 6, 9, flate.HuffmanOnly))
	if err != nil {
		m.t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// stored is b as deflate blocks without compression. The first can have a length of its own.
func stored(b []byte, first int) []byte {
	var out []byte
	for {
		n := min(len(b), first)
		final := byte(0)
		if n == len(b) {
			final = 1
		}
		out = append(out, final, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
		out = append(out, b[:n]...)
		if b, first = b[n:], 0xffff; final == 1 {
			return out
		}
	}
}

func gzipTail(b []byte) []byte {
	tail := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b))
	return binary.LittleEndian.AppendUint32(tail, uint32(len(b)))
}

func (m *maker) gzip(b []byte) []byte {
	header := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
	if m.one(3) {
		header[3] = 8
		header = append(header, "initrd.cpio\x00"...)
	}
	tail := gzipTail(b)
	data := m.flate(b)
	if !m.one(3) {
		return bytes.Join([][]byte{header, data, tail}, nil)
	}
	evil := m.archive([]record{{name: "init", body: "evil", magic: "070701",
		field: [13]uint32{1, 0o100755, 0, 0, 1, 0, 4, 0, 0, 0, 0, 5, 0}}})
	plain := header[:10:10]
	plain[3] = 0
	switch m.IntN(10) {
	case 0:
		// What common readers skip as an extra field is a stream for the kernel.
		m.odd("gzip: an archive in the extra field")
		extra := append(stored(evil, 255), gzipTail(evil)...)
		n := int(extra[0]) | int(extra[1])<<8
		if n+2 < len(extra) {
			return plain
		}
		extra = append(extra, make([]byte, n+2-len(extra))...)
		plain[3] = 4
		return bytes.Join([][]byte{plain, extra, data, tail}, nil)
	case 1:
		m.odd("gzip: an archive in the comment")
		plain[3] = 16
		comment := bytes.ReplaceAll(m.flate(evil), []byte{0}, []byte{1})
		return bytes.Join([][]byte{plain, comment, {0}, data, tail}, nil)
	case 2:
		m.odd("gzip: flags")
		header[3] |= 1 << m.IntN(8)
	case 3:
		m.odd("gzip: header checksum")
		plain[3] = 2
		plain = binary.LittleEndian.AppendUint16(plain, uint16(crc32.ChecksumIEEE(plain)))
		header = plain
	case 4:
		m.odd("gzip: two members")
		tail = bytes.Join([][]byte{tail, make([]byte, m.IntN(5)), plain, m.flate(evil), gzipTail(evil)}, nil)
	case 5:
		m.odd("gzip: wrong trailer")
		tail[m.IntN(8)] ^= 1
	case 6:
		m.odd("gzip: cut trailer")
		tail = tail[:m.IntN(8)]
	case 7:
		m.odd("gzip: bytes behind")
		tail = append(tail, pick(m, "x", "\x00x", "070701", "\x00\x00\x00\x00070701")...)
	case 8:
		m.odd("gzip: other magic")
		header[pick(m, 1, 2)] = pick(m, byte(0x9e), 7, 9)
	case 9:
		m.odd("gzip: a long name")
		header = append(plain, bytes.Repeat([]byte("n"), pick(m, 500, 600, 5000))...)
		header[3] = 8
		header = append(header, pick(m, "\x00", "")...)
	}
	return bytes.Join([][]byte{header, data, tail}, nil)
}

func (m *maker) zstd(b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(m.one(2)),
		zstd.WithSingleSegment(m.one(3)), zstd.WithEncoderLevel(pick(m, zstd.SpeedFastest,
			zstd.SpeedDefault)),
		zstd.WithWindowSize(pick(m, 1<<10, 1<<16, 1<<20)))
	if err != nil {
		m.t.Fatal(err)
	}
	defer w.Close()
	frame := w.EncodeAll(b, nil)
	if !m.one(3) {
		return frame
	}
	skippable := append([]byte("\x50\x2a\x4d\x18\x08\x00\x00\x00"), "skipped!"...)
	switch m.IntN(8) {
	case 0:
		m.odd("zstd: skippable frame before")
		frame = append(skippable, frame...)
	case 1:
		m.odd("zstd: skippable frame behind")
		frame = append(frame, skippable...)
	case 2:
		m.odd("zstd: two frames")
		frame = append(append(frame, make([]byte, m.IntN(5))...), w.EncodeAll(m.archive(m.tree("z")), nil)...)
	case 3:
		m.odd("zstd: frame header descriptor")
		frame[4] ^= 1 << m.IntN(8)
	case 4:
		m.odd("zstd: header")
		frame[5+m.IntN(4)] ^= 1 << m.IntN(8)
	case 5:
		m.odd("zstd: last bytes")
		frame[len(frame)-1-m.IntN(4)] ^= 1 << m.IntN(8)
	case 6:
		m.odd("zstd: raw and repeated blocks")
		frame = []byte("\x28\xb5\x2f\xfd\x00\x58")
		for rest := b; ; {
			n := min(len(rest), 1+m.IntN(3000))
			head := uint32(n)<<3 | pick[uint32](m, 0, 0, 0, 0, 1, 3)<<1
			if n == len(rest) {
				head |= 1
			}
			frame = append(frame, byte(head), byte(head>>8), byte(head>>16))
			frame = append(frame, rest[:n]...)
			if rest = rest[n:]; head&1 != 0 {
				break
			}
		}
	case 7:
		m.odd("zstd: bytes behind")
		frame = append(frame, pick(m, "x", "\x00x", "070701", "\x00\x00\x00\x00070701")...)
	}
	return frame
}

func (m *maker) xz(b []byte) []byte {
	stream := func(check byte, b []byte) []byte {
		var out bytes.Buffer
		w, err := xz.WriterConfig{CheckSum: check, NoCheckSum: check == 0, BlockSize: pick[int64](m, 1000,
			1<<20),
			DictCap: pick(m, 4096, 1<<16)}.NewWriter(&out)
		if err != nil {
			m.t.Fatal(err)
		}
		io.Copy(w, bytes.NewReader(b))
		if err := w.Close(); err != nil {
			m.t.Fatal(err)
		}
		return out.Bytes()
	}
	out := stream(pick(m, byte(0), xz.CRC32), b)
	if !m.one(3) {
		return out
	}
	switch m.IntN(7) {
	case 0:
		m.odd("xz: other check")
		out = stream(pick(m, byte(xz.CRC64), xz.SHA256), b)
	case 1:
		m.odd("xz: two streams")
		out = append(append(out, make([]byte, m.IntN(9))...), stream(1, m.archive(m.tree("z")))...)
	case 2:
		m.odd("xz: header")
		out[6+m.IntN(20)] ^= 1 << m.IntN(8)
	case 3:
		m.odd("xz: end")
		out[len(out)-1-m.IntN(40)] ^= 1 << m.IntN(8)
	case 4:
		// Blocks begin with their header: its size, flags without sizes, and LZMA2 with a dictionary.
		head := out[12 : 12+4*(int(out[12])+1)]
		if at := bytes.Index(head, []byte{0x21, 1}); at > 0 {
			head[at+2] = byte(pick(m, 0, 8, 29, 30, 31, 37, 38, 39, 40, 41))
			m.odd("xz: dictionary %d", head[at+2])
			sum := len(head) - 4
			binary.LittleEndian.PutUint32(head[sum:], crc32.ChecksumIEEE(head[:sum]))
		}
	case 5:
		m.odd("xz: data")
		out[24+m.IntN(len(out)-24)] ^= 1 << m.IntN(8)
	case 6:
		m.odd("xz: bytes behind")
		out = append(out, pick(m, "x", "\x00x", "070701", "\x00\x00\x00\x00070701")...)
	}
	return out
}

// lz4 writes the legacy form, as `lz4 -l` does, and four zeros as its end.
func (m *maker) lz4(b []byte) []byte {
	const magic = "\x02\x21\x4c\x18"
	odd := -1
	if m.one(3) {
		odd = m.IntN(6)
	}
	var out []byte
	for first := true; first || len(b) > 0; first = false {
		if first || m.one(20) {
			out = append(out, magic...)
		}
		n := min(len(b), 1+m.IntN(20_000))
		block := m.lz4Block(b[:n])
		if odd == 0 && m.one(2) && len(block) > 0 {
			m.odd("lz4: data")
			block[m.IntN(len(block))] ^= 1 << m.IntN(8)
		}
		if odd == 1 && m.one(2) {
			m.odd("lz4: end of a block")
			block = append(block, pick(m, "\x10a\x01\x00", "\x10a\x01\x00\x40bcde", "\x00",
				"\x1f\x00\x00\x00\x50abcde")...)
		}
		size := len(block)
		if odd == 2 && m.one(2) {
			m.odd("lz4: size of a block")
			size = pick(m, size-1, size+1, 0, 8<<20, 9<<20, 1<<31)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(size)), block...)
		b = b[n:]
	}
	switch odd {
	case 3:
		m.odd("lz4: no end")
		return out
	case 4:
		m.odd("lz4: another end")
		return append(out, pick(m, "\x00", "\x00\x00\x00", "x", magic, magic+"\x00\x00\x00\x00")...)
	case 5:
		m.odd("lz4: bytes behind")
		return append(out, "\x00\x00\x00\x00"+pick(m, "x", "\x00x", "070701")...)
	}
	return append(out, 0, 0, 0, 0)
}

// lz4Block compresses a block.
func (m *maker) lz4Block(b []byte) []byte {
	var out []byte
	length := func(n int) { // the rest of a length of 15 or more
		for n -= 15; n >= 0; n -= 255 {
			out = append(out, byte(min(n, 255)))
		}
	}
	places := map[string]int{}
	from := 0 // literals that are not written yet
	for at := 0; at+12 < len(b); at++ {
		key := string(b[at : at+4])
		place, ok := places[key]
		places[key] = at
		if !ok || at-place > 0xffff || m.one(8) {
			continue
		}
		n := 4
		for at+n < len(b)-5 && b[place+n] == b[at+n] && !m.one(1000) {
			n++
		}
		out = append(out, byte(min(at-from, 15))<<4|byte(min(n-4, 15)))
		length(at - from)
		out = append(out, b[from:at]...)
		out = binary.LittleEndian.AppendUint16(out, uint16(at-place))
		length(n - 4)
		at += n - 1
		from = at + 1
	}
	out = append(out, byte(min(len(b)-from, 15))<<4)
	length(len(b) - from)
	return append(out, b[from:]...)
}

func (m *maker) compress(b []byte) []byte {
	switch m.IntN(11) {
	case 0, 1:
		b = m.gzip(b)
	case 2, 3:
		b = m.zstd(b)
	case 4:
		b = m.xz(b)
	case 5, 6:
		b = m.lz4(b)
	}
	if m.one(16) {
		m.odd("no padding")
		return b
	}
	return append(b, make([]byte, -len(b)&3)...) // a plain one starts at a multiple of four
}
