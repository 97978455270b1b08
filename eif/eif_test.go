package eif_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// plain is a section as the tests write it: by hand, from the specification, and not with package eif.
type plain struct {
	kind    uint16
	content []byte
}

// reference is a file as the reference implementation lays it out, in memory and with everything spelled out.
func reference(flags uint16, sections ...plain) []byte {
	var head, body bytes.Buffer
	be := func(w *bytes.Buffer, values ...any) {
		for _, v := range values {
			binary.Write(w, binary.BigEndian, v)
		}
	}
	var offsets, sizes [32]uint64
	for i, s := range sections {
		if i < 32 {
			offsets[i] = 548 + uint64(body.Len())
			sizes[i] = uint64(len(s.content))
		}
		be(&body, s.kind, uint16(0), uint64(len(s.content)))
		body.Write(s.content)
	}
	be(&head, []byte(".eif"), uint16(4), flags, uint64(1<<30), uint64(2), uint16(0), uint16(len(sections)),
		offsets, sizes, uint32(0))
	be(&head, crc32.ChecksumIEEE(append(bytes.Clone(head.Bytes()), body.Bytes()...)))
	return append(head.Bytes(), body.Bytes()...)
}

// pcr is the register of some pieces, by the specification's formula.
func pcr(pieces ...[]byte) string {
	inner := sha512.Sum384(bytes.Join(pieces, nil))
	outer := sha512.Sum384(append(make([]byte, 48), inner[:]...))
	return hex.EncodeToString(outer[:])
}

// noise is content of a size that is the same each time.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewPCG(seed, 1)
	for i := range b {
		b[i] = byte(r.Uint64())
	}
	return b
}

const metadata = `{"ImageName":"hello","ImageVersion":"1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00+00:00",` +
	`"BuildTool":"t","BuildToolVersion":"0","OperatingSystem":"Linux","KernelVersion":"6.12.117"},"DockerInfo":null,"CustomMetadata":null}`

// seekBuffer is a file in memory.
type seekBuffer struct {
	b  []byte
	at int64
}

func (s *seekBuffer) Write(p []byte) (int, error) {
	if need := int(s.at) + len(p); need > len(s.b) {
		s.b = append(s.b, make([]byte, need-len(s.b))...)
	}
	copy(s.b[s.at:], p)
	s.at += int64(len(p))
	return len(p), nil
}

func (s *seekBuffer) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, errors.New("only from the start")
	}
	s.at = offset
	return offset, nil
}

// files are the files that both the reader and the writer are tried on.
var files = []struct {
	name     string
	arch     string
	flags    uint16
	sections []plain
}{
	{"one ramdisk", eif.X86_64, 0, []plain{{1, []byte("kernel")}, {2, []byte("console=ttyS0")},
		{5, []byte(metadata)}, {3, []byte("init")}}},
	{"two ramdisks", eif.X86_64, 0, []plain{{1, noise(1, 100_001)}, {2, []byte("a=b")}, {5, []byte(metadata)},
		{3, noise(2, 3000)}, {3, noise(3, 5<<20+7)}}},
	{"three ramdisks", eif.AArch64, 1, []plain{{1, noise(4, 512<<10)}, {2, []byte("a=b")},
		{5, []byte(metadata)}, {3, noise(5, 12)}, {3, noise(6, 512<<10+1)}, {3, noise(7, 2<<20)}}},
	{"command line last", eif.X86_64, 0, []plain{{1, noise(8, 9)}, {3, noise(9, 10)}, {3, noise(10, 11)},
		{5, []byte(metadata)}, {2, []byte("late")}}},
	{"empty ramdisk", eif.X86_64, 0, []plain{{1, []byte("k")}, {2, nil}, {5, []byte(metadata)}, {3, nil}}},
}

// registers are PCR0, PCR1 and PCR2 of some sections, computed the long way.
func registers(sections []plain) [3]string {
	var all, boot, app [][]byte
	disks := 0
	for _, s := range sections {
		switch s.kind {
		case 1, 2:
			all, boot = append(all, s.content), append(boot, s.content)
		case 3:
			all = append(all, s.content)
			if disks == 0 {
				boot = append(boot, s.content)
			} else {
				app = append(app, s.content)
			}
			disks++
		}
	}
	return [3]string{pcr(all...), pcr(boot...), pcr(app...)}
}

func TestWriter(t *testing.T) {
	for _, test := range files {
		t.Run(test.name, func(t *testing.T) {
			var out seekBuffer
			w, err := eif.NewWriter(&out, test.arch)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range test.sections {
				if err := w.Next(eif.SectionType(s.kind)); err != nil {
					t.Fatal(err)
				}
				// One section through Write in odd pieces, the next one through ReadFrom.
				if i%2 == 0 {
					for rest := s.content; len(rest) > 0; {
						n := min(len(rest), 77_777)
						if _, err := w.Write(rest[:n]); err != nil {
							t.Fatal(err)
						}
						rest = rest[n:]
					}
				} else if n, err := w.ReadFrom(bytes.NewReader(s.content)); err != nil ||
					n != int64(len(s.content)) {
					t.Fatal(n, err)
				}
			}
			got, err := w.Measurements()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if want := reference(test.flags, test.sections...); !bytes.Equal(out.b, want) {
				t.Errorf("the file of %d bytes differs from the reference's of %d", len(out.b), len(want))
			}
			if w.Size() != int64(len(out.b)) {
				t.Errorf("Size is %d, the file has %d bytes", w.Size(), len(out.b))
			}
			if got := [3]string{got.PCR0.String(), got.PCR1.String(), got.PCR2.String()}; got !=
				registers(test.sections) {
				t.Errorf("registers %v, want %v", got, registers(test.sections))
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	for _, test := range files {
		t.Run(test.name, func(t *testing.T) {
			file := reference(test.flags, test.sections...)
			f, err := eif.Open(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				t.Fatal(err)
			}
			if f.Arch() != test.arch || f.Version != 4 || f.Memory != 1<<30 || f.CPUs != 2 {
				t.Errorf("header %+v", f.Header)
			}
			pass, err := f.Measure(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if pass.CRC != f.CRC {
				t.Errorf("CRC %08x, the file says %08x", pass.CRC, f.CRC)
			}
			if got := [3]string{pass.PCR0.String(), pass.PCR1.String(), pass.PCR2.String()}; got !=
				registers(test.sections) {
				t.Errorf("registers %v, want %v", got, registers(test.sections))
			}
			if pass.PCR8 != nil {
				t.Errorf("an unsigned file has PCR8 %v", pass.PCR8)
			}
			for i, s := range test.sections {
				if pass.Sections[i].SHA384 != sha512.Sum384(s.content) {
					t.Errorf("section %d has another digest", i)
				}
				content, err := io.ReadAll(f.Content(f.Sections[i]))
				if err != nil || !bytes.Equal(content, s.content) {
					t.Errorf("section %d has another content (%v)", i, err)
				}
			}
		})
	}
}

// small is a correct file for the tests that break one.
func small() []byte {
	return reference(0, plain{1, []byte("kernel")}, plain{2, []byte("console=ttyS0")},
		plain{5, []byte(metadata)},
		plain{3, []byte("init")}, plain{3, []byte("app!")})
}

func TestTruncated(t *testing.T) {
	file := small()
	for n := range file {
		if _, err := eif.Open(bytes.NewReader(file[:n]), int64(n)); err == nil {
			t.Fatalf("a file cut at byte %d of %d is read", n, len(file))
		}
	}
	// The size may be right and the file shorter all the same: it can shrink while it is read.
	f, err := eif.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	_ = f
	for n := range file {
		f, err := eif.Open(bytes.NewReader(file[:n]), int64(len(file)))
		if err != nil {
			continue
		}
		if _, err := f.Measure(t.Context()); err == nil {
			t.Fatalf("a file cut at byte %d of %d is measured", n, len(file))
		}
	}
}

func TestBroken(t *testing.T) {
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
	}
	put64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
	}
	with := func(sections ...plain) func([]byte) []byte {
		return func([]byte) []byte { return reference(0, sections...) }
	}
	k, c, m, r := plain{1, []byte("k")}, plain{2, []byte("c")}, plain{5, []byte(metadata)},
		plain{3, []byte("disk")}
	many := []plain{k, c, m}
	for len(many) < 33 {
		many = append(many, r)
	}
	for _, test := range []struct {
		name   string
		damage func([]byte) []byte
		want   string
	}{
		{"other magic", put16(0, 0x7f45), "begins with"},
		{"version 1", put16(4, 1), "version 1"},
		{"version 5", put16(4, 5), "version 5"},
		{"reserved flags", put16(6, 2), "flags are 0x2"},
		{"reserved field", put16(24, 7), "reserved field at byte 24"},
		{"unused field", put16(540, 7), "unused field at byte 540"},
		{"no sections", put16(26, 0), "0 sections"},
		{"one section", put16(26, 1), "1 sections"},
		{"33 sections", with(many...), "33 sections"},
		{"fewer sections than the table has", put16(26, 4), "has an entry for section 4"},
		{"more sections than the table has", put16(26, 6), "section 5"},
		{"an offset in the header", put64(28, 500), "section 0: the header places it at byte 500"},
		{"an offset too far", put64(28+8, 60000), "section 1: the header places it at byte 60000"},
		{"an offset over 63 bits", put64(28+8, 1<<63),
			"section 1: the header places it at byte 9223372036854775808"},
		{"a size over the end", func(b []byte) []byte { return put64(548+4, 1<<20)(put64(284, 1<<20)(b)) },
			"do not fit"},
		{"a size over 63 bits", func(b []byte) []byte { return put64(548+4, 1<<63)(put64(284, 1<<63)(b)) },
			"do not fit"},
		{"an overlap", func(b []byte) []byte { return put64(284+8, 6)(put64(28+8, 548)(b)) }, "overlaps"},
		{"sizes that disagree", put64(548+4, 7), "7 by its own"},
		{"an unknown type", put16(548, 6), "unknown type 6"},
		{"type 0", put16(548, 0), "unknown type 0"},
		{"flags of a section", put16(550, 1), "section 0 (kernel): its reserved flags"},
		{"two kernels", with(k, k, c, m, r), "2 kernel sections"},
		{"two command lines", with(k, c, c, m, r), "2 cmdline sections"},
		{"two metadata sections", with(k, c, m, m, r), "2 metadata sections"},
		{"no kernel", with(c, m, r), "no kernel"},
		{"no command line", with(k, m, r), "no cmdline"},
		{"no ramdisk", with(k, c, m), "no ramdisk"},
		{"no metadata", with(k, c, r), "no metadata"},
		{"a ramdisk before the kernel", with(c, m, r, k), "before the kernel"},
		{"two signatures", with(k, c, m, r, plain{4, nil}, plain{4, nil}), "2 signature sections"},
		{"a large signature", with(k, c, m, r, plain{4, make([]byte, 32769)}), "32769 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := test.damage(small())
			_, err := eif.Open(bytes.NewReader(file), int64(len(file)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestOldVersions(t *testing.T) {
	file := reference(0, plain{1, []byte("k")}, plain{2, []byte("c")}, plain{3, []byte("disk")})
	for version, fine := range map[uint16]bool{2: true, 3: true, 4: false} {
		binary.BigEndian.PutUint16(file[4:], version)
		if _, err := eif.Open(bytes.NewReader(file), int64(len(file))); (err == nil) != fine {
			t.Errorf("version %d without metadata: %v", version, err)
		}
	}
}

func TestInspectGoesOn(t *testing.T) {
	file := small()
	binary.BigEndian.PutUint16(file[6:], 2)   // a flag
	binary.BigEndian.PutUint16(file[548:], 9) // the kernel's type
	f, problems := eif.Inspect(bytes.NewReader(file), int64(len(file)))
	if f == nil || len(f.Sections) != 5 {
		t.Fatalf("no sections: %v", problems)
	}
	if len(problems) < 3 { // the flag, the type, no kernel
		t.Errorf("problems %v", problems)
	}
}

func TestWrongCRC(t *testing.T) {
	good := small()
	for _, at := range []int{8, 544, 547, 560, len(good) - 1} {
		file := bytes.Clone(good)
		file[at] ^= 1
		f, err := eif.Open(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		if pass, err := f.Measure(t.Context()); err != nil || pass.CRC == f.CRC {
			t.Errorf("byte %d was changed, and the checksum is right (%v)", at, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	if _, err := eif.NewWriter(&seekBuffer{}, "riscv64"); err == nil ||
		!strings.Contains(err.Error(), "riscv64") {
		t.Errorf("architecture: %v", err)
	}
	w, _ := eif.NewWriter(&seekBuffer{}, eif.X86_64)
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("content without a section is taken")
	}
	w, _ = eif.NewWriter(&seekBuffer{}, eif.X86_64)
	if err := w.Next(eif.Kernel); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "no cmdline") {
		t.Errorf("a kernel alone: %v", err)
	}
	w, _ = eif.NewWriter(&seekBuffer{}, eif.X86_64)
	for range 32 {
		if err := w.Next(eif.Ramdisk); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Next(eif.Ramdisk); err == nil {
		t.Error("a 33rd section is taken")
	}
}

// full is a disk with room for some bytes.
type full struct {
	seekBuffer
	room int
}

var errFull = errors.New("no space left on device")

func (f *full) Write(p []byte) (int, error) {
	if len(f.b)+len(p) > f.room {
		return 0, errFull
	}
	return f.seekBuffer.Write(p)
}

func TestFullDisk(t *testing.T) {
	for _, room := range []int{0, 548, 560, 600_000, 4 << 20} {
		err := func() error {
			w, err := eif.NewWriter(&full{room: room}, eif.X86_64)
			if err != nil {
				return err
			}
			for _, s := range files[1].sections {
				if err := w.Next(eif.SectionType(s.kind)); err != nil {
					return err
				}
				if _, err := w.Write(s.content); err != nil {
					return err
				}
			}
			return w.Close()
		}()
		if !errors.Is(err, errFull) {
			t.Errorf("a disk with room for %d bytes: %v", room, err)
		}
	}
}

// failing is a source that ends with an error.
type failing struct{ n int }

var errSource = errors.New("the source broke")

func (f *failing) Read(p []byte) (int, error) {
	if f.n == 0 {
		return 0, errSource
	}
	n := min(f.n, len(p))
	f.n -= n
	return n, nil
}

func TestFailingSource(t *testing.T) {
	w, _ := eif.NewWriter(&seekBuffer{}, eif.X86_64)
	if err := w.Next(eif.Kernel); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFrom(&failing{n: 3 << 20}); !errors.Is(err, errSource) {
		t.Errorf("ReadFrom: %v", err)
	}
	if err := w.Close(); !errors.Is(err, errSource) {
		t.Errorf("Close after it: %v", err)
	}
}
