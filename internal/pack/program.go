package pack

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
)

// machines are the ELF machines of the architectures.
var machines = map[string]elf.Machine{eif.X86_64: elf.EM_X86_64, eif.AArch64: elf.EM_AARCH64}

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
	in, err := compression.Open(f, maxModule)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if in != nil {
		b, err := io.ReadAll(io.LimitReader(in, maxModule))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
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
