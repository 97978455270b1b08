package preflight

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// machine returns the ELF machine of an architecture, or EM_NONE.
func machine(archName string) elf.Machine {
	a, _ := arch.Lookup(archName)
	return a.ELF
}

// CheckInit rejects an init that cannot run on arch.
func CheckInit(r io.ReaderAt, arch string) error {
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("not an ELF program: %w", err)
	}
	if f.Machine != machine(arch) || f.Class != elf.ELFCLASS64 {
		return fmt.Errorf("built for %v, the enclave is for %s", f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("linked dynamically: the first ramdisk has no loader; link it statically")
		}
	}
	return nil
}

// maxModule is larger than any module, in bytes uncompressed.
const maxModule = 256 << 20

// CheckModuleFile is CheckModule for a file, which may be compressed.
func CheckModuleFile(path, arch, release string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	module, err := compression.ReadAll(f, maxModule)
	if err == nil {
		err = CheckModule(bytes.NewReader(module), arch, release)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// CheckModule rejects a module that a kernel of the release cannot load on arch.
func CheckModule(r io.ReaderAt, arch, release string) error {
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("not a kernel module: %w", err)
	}
	if f.Machine != machine(arch) || f.Type != elf.ET_REL {
		return fmt.Errorf("built for %v (%v), the enclave is for %s", f.Machine, f.Type, arch)
	}
	magic, err := kernel.ModuleInfo(f, "vermagic")
	if built, _, _ := strings.Cut(magic, " "); err == nil && built != release && release != "" {
		err = fmt.Errorf("built for kernel %s, the kernel is %s", built, release)
	}
	return err
}
