package kernel

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// MaxCmdline is the longest command line that the kernels of all architectures take whole, in bytes, without
// the NUL (COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h and arch/arm64/include/uapi/asm/setup.h, both
// 2048).
const MaxCmdline = 2047

// CheckCmdline rejects a command line with which no enclave works.
func CheckCmdline(cmdline string) error {
	switch {
	case cmdline == "":
		return errors.New("the kernel's command line is empty: " +
			"without a console and reboot=k an enclave prints nothing and does not exit")
	case strings.ContainsFunc(cmdline, unprintable):
		return fmt.Errorf("the kernel's command line %q contains a character that is not printable ASCII",
			cmdline)
	case len(cmdline) > MaxCmdline:
		return fmt.Errorf("the kernel's command line has %d bytes: the kernel truncates it to %d",
			len(cmdline), MaxCmdline)
	}
	return nil
}

// unprintable rejects what readers may split at another place than the kernel does (lib/ctype.c: it takes the
// byte 0xa0 for a space, and no other byte above 0x7f).
func unprintable(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }

// forms are the kernel files that the loaders of the architectures start, by Documentation/arch/x86/boot.rst
// and Documentation/arch/arm64/booting.rst in the kernel source.
var forms = []struct {
	arch, name string
	is         func(io.ReaderAt) bool
	end        func(r io.ReaderAt, size int64) (int64, error) // the least size by the header, or 0
}{
	{"x86_64", "a bzImage", isBzImage, bzImageEnd},
	{"aarch64", "an uncompressed Image", isImage, imageEnd},
}

// otherForms are what QEMU for aarch64 looks for before an Image (arm_setup_direct_kernel_boot and
// load_aarch64_image of hw/arm/boot.c), by their first bytes: a file can have the marks of both.
var otherForms = map[string]string{
	"\x7fELF":          "an ELF file (vmlinux)",
	"MZ\x00\x00zimg":   "an EFI zboot image",
	"\x27\x05\x19\x56": "a U-Boot image",
	"\x1f\x8b":         "compressed with gzip",
}

// CheckFile rejects a kernel of size bytes that arch cannot start: one in another form, or a truncated one.
func CheckFile(r io.ReaderAt, size int64, arch string) error {
	found, want := "neither a bzImage nor an Image", ""
	other := false
	for magic, form := range otherForms {
		if has(r, 0, magic) {
			found, other = form, true
		}
	}
	for _, form := range forms {
		if form.arch == arch {
			want = form.name
		}
		if other || !form.is(r) {
			continue
		}
		if form.arch != arch {
			found = form.name
			continue
		}
		end, err := form.end(r, size)
		if err != nil {
			return fmt.Errorf("the kernel's header: %w", err)
		}
		if size < end {
			return fmt.Errorf("the kernel is truncated: %d bytes, its header says at least %d", size, end)
		}
		return nil
	}
	if want == "" {
		return fmt.Errorf("architecture %q: expected %s", arch, strings.Join(Archs, " or "))
	}
	return fmt.Errorf("the kernel is %s: %s needs %s", found, arch, want)
}

func has(r io.ReaderAt, at int64, want string) bool {
	b := make([]byte, len(want))
	n, _ := r.ReadAt(b, at)
	return n == len(b) && string(b) == want
}

// isBzImage tells a bzImage from other files, and by bit 0 of loadflags from a zImage.
func isBzImage(r io.ReaderAt) bool {
	var flags [1]byte
	n, _ := r.ReadAt(flags[:], 0x211)
	return n == 1 && flags[0]&1 != 0 && has(r, 0x1fe, "\x55\xaa") && has(r, 0x202, "HdrS")
}

// bzImageEnd is where a bzImage ends: after the boot sector, setup_sects further sectors (0 means 4) and
// syssize units of 16 bytes. A signature may follow.
func bzImageEnd(r io.ReaderAt, _ int64) (int64, error) {
	var b [7]byte
	if _, err := r.ReadAt(b[:], 0x1f1); err != nil {
		return 0, err
	}
	sectors := int64(b[0])
	if sectors == 0 {
		sectors = 4
	}
	return (1+sectors)*512 + 16*int64(binary.LittleEndian.Uint32(b[3:])), nil
}

func isImage(r io.ReaderAt) bool { return has(r, magicAt, imageMagic) }

// imageEnd is where an Image ends that EFI can start as well: its PE header has a table of what the file
// holds. The field image_size of the Image's own header does not help: it counts .bss, which the file does
// not hold.
func imageEnd(r io.ReaderAt, size int64) (int64, error) {
	if !has(r, 0, "MZ") {
		return 0, nil
	}
	f, err := pe.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return 0, fmt.Errorf("for EFI: %w", err)
	}
	end := int64(0)
	for _, s := range f.Sections {
		end = max(end, int64(s.Offset)+int64(s.Size))
	}
	return end, nil
}

// Release returns the release that a kernel file names, as uname -r prints it: "6.12.117"; or "" if it names
// none.
func Release(r io.ReaderAt, size int64, arch string) (string, error) {
	if arch == "x86_64" {
		var pointer [2]byte
		if _, err := r.ReadAt(pointer[:], 0x20e); err != nil {
			return "", err
		}
		text := make([]byte, 256)
		n, err := r.ReadAt(text, 0x200+int64(binary.LittleEndian.Uint16(pointer[:])))
		if err != nil && err != io.EOF {
			return "", err
		}
		text, _, _ = bytes.Cut(text[:n], []byte{0})
		release, _, _ := strings.Cut(string(text), " ")
		return release, nil
	}
	// An Image is the kernel itself, and contains its banner (init/version-timestamp.c).
	const overlap = 256
	buffer := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buffer) - overlap) {
		n, err := r.ReadAt(buffer, at)
		if err != nil && err != io.EOF {
			return "", err
		}
		if match := banner.FindSubmatch(buffer[:n]); match != nil {
			return string(match[1]), nil
		}
	}
	return "", nil
}

var banner = regexp.MustCompile(`Linux version ([0-9][^ \x00%]{2,64}) \(`)
