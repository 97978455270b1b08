package eif_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// place moves the sections of a file: it writes them one after the other in the given order, with a gap
// before each, and other bytes at the end. The header's table keeps its order. The checksum is of all bytes.
func place(file []byte, order []int, gap, after int) []byte {
	out := bytes.Clone(file[:eif.HeaderSize])
	for _, i := range order {
		at := binary.BigEndian.Uint64(file[28+8*i:])
		size := binary.BigEndian.Uint64(file[284+8*i:]) + eif.SectionHeaderSize
		out = append(out, bytes.Repeat([]byte{'g'}, gap)...)
		binary.BigEndian.PutUint64(out[28+8*i:], uint64(len(out)))
		out = append(out, file[at:at+size]...)
	}
	out = append(out, bytes.Repeat([]byte{'a'}, after)...)
	sumAll(out)
	return out
}

func sumAll(file []byte) {
	sum := crc32.Update(crc32.ChecksumIEEE(file[:544]), crc32.IEEETable, file[eif.HeaderSize:])
	binary.BigEndian.PutUint32(file[544:], sum)
}

// resigned is a file as nitro-cli sign-eif leaves it after it replaced the signature by a shorter one: the
// header's table has the old size.
func resigned() []byte {
	file := reference(0, plain{1, []byte("kernel")}, plain{2, []byte("c")}, plain{5, []byte(metadata)},
		plain{3, []byte("disk")}, plain{4, []byte("not a signature")})
	binary.BigEndian.PutUint64(file[284+8*4:], 99)
	sumAll(file)
	return file
}

// TestLayout opens files whose sections lie elsewhere than the specification has them, and repairs them.
func TestLayout(t *testing.T) {
	straight := small()
	for _, test := range []struct {
		name string
		file []byte
		want string // a part of the only finding, or of the error
	}{
		{"gaps", place(straight, []int{0, 1, 2, 3, 4}, 64, 0),
			"64 bytes at byte 548, before the kernel section"},
		{"trailing bytes", place(straight, []int{0, 1, 2, 3, 4}, 0, 9), "9 bytes after the last section"},
		{"metadata first", place(straight, []int{2, 0, 1, 3, 4}, 0, 0),
			"another order than in the header's table"},
		{"re-signed", resigned(), "99 bytes by the file's header, 15 by its own: nitro-cli sign-eif"},
		{"ramdisks exchanged", place(straight, []int{0, 1, 2, 4, 3}, 0, 0), "other registers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := eif.Open(bytes.NewReader(test.file), int64(len(test.file)))
			if err != nil {
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want one with %q", err, test.want)
				}
				return
			}
			if len(f.Layout) == 0 || !strings.Contains(f.Layout[0].Error(), test.want) {
				t.Fatalf("layout %v, want %q", f.Layout, test.want)
			}
			before, _ := f.Measure(t.Context())
			if before == nil {
				t.Fatal("the file cannot be measured")
			}
			if err := f.CheckCRC(before); err != nil {
				t.Error(err)
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "repaired"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			after, err := eif.Repair(t.Context(), out, f)
			if err != nil {
				t.Fatal(err)
			}
			if after.PCR0 != before.PCR0 || after.PCR1 != before.PCR1 || after.PCR2 != before.PCR2 {
				t.Errorf("repaired: registers %v, before %v", after, before)
			}
			repaired, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			if test.name != "re-signed" && !bytes.Equal(repaired, straight) {
				t.Error("the repaired file is not the one that its sections came from")
			}
			g, err := eif.Open(bytes.NewReader(repaired), int64(len(repaired)))
			if err != nil || len(g.Layout) > 0 {
				t.Fatalf("the repaired file: %v, %v", err, g)
			}
			if pass, _ := g.Measure(t.Context()); g.CheckCRC(pass) != nil {
				t.Error("the repaired file has a wrong checksum")
			}
		})
	}
}

func TestRepairRejects(t *testing.T) {
	gap := place(small(), []int{0, 1, 2, 3, 4}, 8, 0)
	damaged := bytes.Clone(gap)
	damaged[len(damaged)-1] ^= 1
	pcie := small()
	binary.BigEndian.PutUint16(pcie[6:], 0x240)
	sumAll(pcie)
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"a changed file":       {damaged, "checksum mismatch"},
		"a PCIe enclave's":     {pcie, "PCIe"},
		"nothing to be mended": {small(), "nothing to repair"},
	} {
		f, err := eif.Open(bytes.NewReader(test.file), int64(len(test.file)))
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := eif.Repair(t.Context(), out, f); err == nil || !strings.Contains(err.Error(),
			test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
	}
}

// TestPCIe: the registers of an image with the flags of a PCIe enclave have no PCR0, in JSON too.
func TestPCIe(t *testing.T) {
	for flags, want := range map[uint16]string{0x240: "pcie pcie-virtio",
		0x341: "aarch64 pcie pcie-virtio 0x100"} {
		file := small()
		binary.BigEndian.PutUint16(file[6:], flags)
		f, err := eif.Open(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		if f.FlagNames() != want || !f.PCIe() {
			t.Errorf("flags %#x are %q, want %q", flags, f.FlagNames(), want)
		}
		pass, err := f.Measure(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := pass.PCR(0); ok {
			t.Errorf("PCR0 is %v, want none", pass.PCR0)
		}
		if text, err := pass.Measurements.MarshalJSON(); err != nil || bytes.Contains(text, []byte("PCR0")) {
			t.Errorf("%s, %v", text, err)
		}
	}
}
