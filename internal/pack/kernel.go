package pack

import (
	"bytes"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// machines are the ELF machines of the architectures.
var machines = map[string]elf.Machine{eif.X86_64: elf.EM_X86_64, eif.AArch64: elf.EM_AARCH64}

// checkKernel says why a kernel of size bytes cannot be started on arch, or nothing.
func checkKernel(r io.ReaderAt, size int64, arch string) error {
	found := "neither a bzImage nor an Image"
	for _, form := range kernelForms {
		if !form.is(r, size) {
			continue
		}
		if form.arch == arch {
			end, err := form.end(r, size)
			if err != nil {
				return fmt.Errorf("the kernel's header: %w", err)
			}
			if size < end {
				return fmt.Errorf("the kernel has %d bytes, and its header says at least %d: it was cut", size, end)
			}
			return nil
		}
		found = form.name
	}
	for _, form := range kernelForms {
		if form.arch == arch {
			return fmt.Errorf("the kernel is %s, and %s needs %s", found, arch, form.name)
		}
	}
	return fmt.Errorf("architecture %q: an enclave has %s or %s", arch, eif.X86_64, eif.AArch64)
}

// kernelForms are the forms in which a kernel is started, by Documentation/arch/x86/boot.rst and
// Documentation/arch/arm64/booting.rst.
var kernelForms = []struct {
	arch, name string
	is         func(r io.ReaderAt, size int64) bool
	end        func(r io.ReaderAt, size int64) (int64, error) // the fewest bytes that the whole kernel has; 0 where it does not say
}{
	{eif.X86_64, "a bzImage", func(r io.ReaderAt, size int64) bool {
		return has(r, 0x1fe, "\x55\xaa") && has(r, 0x202, "HdrS") && loadsHigh(r)
	}, bzImageEnd},
	{eif.AArch64, "an uncompressed Image", func(r io.ReaderAt, size int64) bool {
		return has(r, 0x38, "ARM\x64")
	}, imageEnd},
}

func has(r io.ReaderAt, at int64, want string) bool {
	b := make([]byte, len(want))
	n, _ := r.ReadAt(b, at)
	return n == len(b) && string(b) == want
}

// loadsHigh says whether bit 0 of loadflags is set, which makes a zImage a bzImage.
func loadsHigh(r io.ReaderAt) bool {
	var b [1]byte
	n, _ := r.ReadAt(b[:], 0x211)
	return n == 1 && b[0]&1 != 0
}

// bzImageEnd is where a bzImage ends: after the boot sector, setup_sects further ones (0 means 4) and syssize units of 16 bytes. A
// signature may follow.
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

// imageEnd is where an Image ends, if it can be started by EFI as well: its PE header then has a table of what is in the file.
// The field image_size of its own header does not say it. It is the memory that the kernel takes, with what is zero at the start
// (.bss) and so not in the file, and nothing says how much that is.
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

// kernelRelease is the release that a kernel says it is, as uname -r prints it: "6.12.117". Empty where it does not say.
func kernelRelease(r io.ReaderAt, size int64, arch string) (string, error) {
	if arch == eif.X86_64 {
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
	// An Image is the kernel itself, and has its banner in it (init/version-timestamp.c).
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

// checkProgram says why init cannot run on arch.
func checkProgram(r io.ReaderAt, arch string) error {
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("it is no ELF program: %w", err)
	}
	if f.Machine != machines[arch] || f.Class != elf.ELFCLASS64 {
		return fmt.Errorf("it is built for %v, and the enclave is for %s", f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically: there is no loader in the first ramdisk, build it static")
		}
	}
	return nil
}

// maxModule is more than the largest module has, in bytes, uncompressed.
const maxModule = 256 << 20

// checkModuleFile is checkModule for a file that may be compressed in a form that kernels take modules in.
func checkModuleFile(name, arch, release string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var module io.ReaderAt = f
	for _, c := range compressions {
		if c.open == nil || !has(f, 0, c.magic) {
			continue
		}
		r, err := c.open(f)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, c.name, err)
		}
		b, err := io.ReadAll(io.LimitReader(r, maxModule))
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, c.name, err)
		}
		module = bytes.NewReader(b)
	}
	if err := checkModule(module, arch, release); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkModule says why a kernel of a release cannot load a module on arch.
func checkModule(r io.ReaderAt, arch, release string) error {
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("it is no kernel module: %w", err)
	}
	if f.Machine != machines[arch] || f.Type != elf.ET_REL {
		return fmt.Errorf("it is built for %v (%v), and the enclave is for %s", f.Machine, f.Type, arch)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return errors.New("it is no kernel module: it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return fmt.Errorf("its section .modinfo: %w", err)
	}
	for record := range bytes.SplitSeq(info, []byte{0}) {
		if magic, ok := bytes.CutPrefix(record, []byte("vermagic=")); ok {
			if built, _, _ := strings.Cut(string(magic), " "); built != release && release != "" {
				return fmt.Errorf("it is built for kernel %s, and the kernel is %s", built, release)
			}
			return nil
		}
	}
	return errors.New("it is no kernel module: it has no vermagic")
}
