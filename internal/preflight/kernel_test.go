package preflight

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
)

const (
	gnuBanner = "Linux version 6.12.117 (neb@neb) (gcc (Debian 14.2.0) 14.2.0, GNU ld (GNU Binutils) 2.44) " +
		"#1 SMP"
	lldBanner = "Linux version 6.6.30 (b@h) (clang version 17.0.6, LLD 17.0.6) #1 SMP"
)

// placed is the head of an Image with the text_offset of Nitro.
const placed = "MZ\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x00"

// bzImage is the head of a bzImage with a compressed kernel.
func bzImage(t *testing.T, payload string) []byte {
	t.Helper()
	head := make([]byte, 5*512)
	binary.LittleEndian.PutUint16(head[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(head[0x248:], 16)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(strings.Repeat("\x00code", 300_000) + payload + strings.Repeat("data", 1000)))
	w.Close()
	binary.LittleEndian.PutUint32(head[0x24c:], uint32(b.Len()))
	return append(append(head, make([]byte, 16)...), b.Bytes()...)
}

func TestCheckKernel(t *testing.T) {
	for _, c := range []struct {
		name, arch, cmdline, config string
		kernel                      []byte
		want                        []Code
	}{
		{"GNU ld", arch.X86_64, "console=ttyS0", "", bzImage(t, gnuBanner), nil},
		{"LLD", arch.X86_64, "console=ttyS0", "", bzImage(t, lldBanner), []Code{KernelLinker}},
		{"LLD, aarch64", arch.AArch64, "console=ttyS0", "", []byte(placed + strings.Repeat("x",
			1<<20-40) + lldBanner),
			[]Code{KernelLinker}},
		{"an Image at 0", arch.AArch64, "", "", make([]byte, 100), []Code{TextOffset}},
		{"an Image in its place", arch.AArch64, "", "", []byte(placed), nil},
		{"a payload beyond the file", arch.X86_64, "", "", bzImage(t, lldBanner)[:3000], nil},
		{"no kernel", arch.X86_64, "", "", nil, nil},
		{"a root", arch.X86_64, "console=ttyS0 root=/dev/ram0", "", nil, []Code{RootOption}},
		{"the reference's root", arch.AArch64, "console=ttyS0 root=/dev/ram0", "", nil, nil},
		{"another root", arch.AArch64, "root=/dev/vda ro", "", nil, []Code{RootOption}},
		{"KASLR", arch.X86_64, "console=ttyS0", "CONFIG_RANDOMIZE_BASE=y\n", nil, []Code{KASLR}},
		{"no KASLR", arch.X86_64, "nokaslr console=ttyS0", "CONFIG_RANDOMIZE_BASE=y\n", nil, nil},
	} {
		found := CheckKernel(bytes.NewReader(c.kernel), int64(len(c.kernel)), c.arch, c.cmdline, c.config)
		same := len(found) == len(c.want)
		for i := range found {
			same = same && found[i].Code == c.want[i]
		}
		if !same {
			t.Errorf("%s: found %v, want %v", c.name, found, c.want)
		}
	}
}

// TestMemory: the advice grows with whatever the kernel runs out of first.
func TestMemory(t *testing.T) {
	const file = 0o100644
	usage := func(n int, size int64) (u Usage) {
		for range n {
			u.Entry(file, size)
			u.Ramdisks += size + 160
		}
		return u
	}
	for _, c := range []struct {
		name        string
		usage       Usage
		eif         int64
		least, most int64 // MiB
	}{
		{"a small enclave", usage(10, 1000), 9 * mib, 56, 128},
		{"80,000 small files", usage(80_000, 100), 32 * mib, 650, 760},
		{"a large file", usage(1, 500*mib), 509 * mib, 2036, 2036},
		{"a compressed ramdisk of a large file", Usage{Ramdisks: 50 * mib, Pages: 128_000, Inodes: 1},
			59 * mib,
			1090, 1200},
	} {
		if got := c.usage.LeastMemory(c.eif) / mib; got < c.least || got > c.most {
			t.Errorf("%s: %d MiB, want %d to %d", c.name, got, c.least, c.most)
		}
	}
	if got := DefaultMemory(Usage{}.LeastMemory(mib)); got != 512*mib {
		t.Errorf("by default %d MiB", got/mib)
	}
	var u Usage
	u.Entry(0o120777, 60)
	u.Entry(0o120777, 200)
	u.Entry(0o040755, 0)
	u.Entry(file, 4097)
	if u.Pages != 3 || u.Inodes != 4 {
		t.Errorf("%+v", u)
	}
}
