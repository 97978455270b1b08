package kernel

import (
	"bytes"
	"strings"
	"testing"
)

// TestCheckFile gives kernels with the marks of their own form, and the first bytes of others.
func TestCheckFile(t *testing.T) {
	image := make([]byte, 4096)
	copy(image[magicAt:], imageMagic)
	bz := make([]byte, 4096)
	copy(bz[0x1fe:], "\x55\xaa\x00\x00HdrS")
	bz[0x211] = 1
	low, cut := bytes.Clone(bz), bytes.Clone(bz)
	low[0x211] = 0
	cut[0x1f1] = 255 // setup_sects
	for _, c := range []struct {
		arch, magic string
		file        []byte
		want        string
	}{
		{"aarch64", "", image, ""},
		{"x86_64", "", bz, ""},
		{"aarch64", "", bz, "is a bzImage"},
		{"x86_64", "", image, "is an uncompressed Image"},
		{"aarch64", "", make([]byte, 4096), "neither"},
		{"x86_64", "", make([]byte, 4096), "neither"},
		{"x86_64", "", low, "neither"},
		{"x86_64", "", cut, "truncated"},
		{"aarch64", "\x7fELF", image, "is an ELF file"},
		{"x86_64", "\x7fELF", bz, "is an ELF file"},
		{"aarch64", "MZ\x00\x00zimg", image, "is an EFI zboot image"},
		{"aarch64", "\x27\x05\x19\x56", image, "is a U-Boot image"},
		{"aarch64", "\x1f\x8b\x08\x08", image, "is compressed with gzip"},
	} {
		file := bytes.Clone(c.file)
		copy(file, c.magic)
		err := CheckFile(bytes.NewReader(file), int64(len(file)), c.arch)
		if c.want == "" && err != nil || c.want != "" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %q: error %v, want %q", c.arch, c.magic, err, c.want)
		}
	}
}
