package output

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// objectFile is a module with a section .text and a .modinfo.
func objectFile(t *testing.T, text, info string) string {
	t.Helper()
	names := "\x00.text\x00.modinfo\x00.bss\x00.shstrtab\x00"
	at := uint64(64 + 5*64)
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shoff: 64,
			Shentsize: 64, Shnum: 5, Shstrndx: 4},
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: at, Size: uint64(len(text))},
		elf.Section64{Name: 7, Type: uint32(elf.SHT_PROGBITS), Off: at + uint64(len(text)),
			Size: uint64(len(info))},
		elf.Section64{Name: 16, Type: uint32(elf.SHT_NOBITS), Off: at, Size: 8},
		elf.Section64{Name: 21, Type: uint32(elf.SHT_STRTAB), Off: at + uint64(len(text+info)),
			Size: uint64(len(names))},
		[]byte(text + info + names),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// A second compiler may change a kernel's code and what the configuration says about the compiler, and
// nothing else: no other option, no description of the module, no command line, and no other program.
func TestCompareOther(t *testing.T) {
	const config = "CONFIG_GCC_VERSION=140200\nCONFIG_CC_HAS_X=y\nCONFIG_NSM=m\n"
	ours := map[string]string{"bzImage": "code", "bzImage.config": config, "cmdline": "reboot=k\n",
		"init": "go", "linuxkit": "go", "nsm.ko": objectFile(t, "code", "vermagic=6.12 \x00")}
	other := maps.Clone(ours)
	other["bzImage"] = "other code"
	other["bzImage.config"] = "CONFIG_GCC_VERSION=130300\n# CONFIG_CC_HAS_X is not set\nCONFIG_NSM=m\n"
	other["nsm.ko"] = objectFile(t, "more code", "vermagic=6.12 \x00")
	compare := func(ours map[string]string) map[string]Finding {
		t.Helper()
		dir, from := t.TempDir(), t.TempDir()
		made(t, from, "x86_64", "")
		for name, text := range other {
			component := map[string]string{"init": "init", "linuxkit": "linuxkit"}[name]
			if component == "" {
				component = "kernel"
			}
			if err := os.WriteFile(filepath.Join(from, component, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		set := Set{"x86_64", madeIn(from, "x86_64")}
		if err := Write(dir, []Set{set}); err != nil {
			t.Fatal(err)
		}
		for name, text := range ours {
			if err := os.WriteFile(filepath.Join(dir, "x86_64", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		findings, err := CompareOther(dir, []Set{set})
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]Finding{}
		for _, f := range findings {
			by[strings.TrimPrefix(f.Path, "x86_64/")] = f
		}
		return by
	}
	for name, want := range map[string]struct {
		state   State
		details []string
	}{
		"bzImage": {Varies, []string{"-4 bytes", "+10 bytes"}},
		"bzImage.config": {Varies, []string{"-CONFIG_GCC_VERSION=140200", "-CONFIG_CC_HAS_X=y",
			"+CONFIG_GCC_VERSION=130300", "+# CONFIG_CC_HAS_X is not set"}},
		"nsm.ko": {Varies, []string{"-section .text: 4 bytes, CRC-32 77153098",
			"+section .text: 9 bytes, CRC-32 f6b05f21"}},
		"cmdline": {Same, nil}, "init": {Same, nil}, "linuxkit": {Same, nil}, SumsName: {},
	} {
		if f := compare(ours)[name]; f.State != want.state || !slices.Equal(f.Details, want.details) {
			t.Errorf("%s: expected %s %q, found %s %q", name, want.state, want.details, f.State, f.Details)
		}
	}
	for name, text := range map[string]string{
		"bzImage.config": config + "CONFIG_KEXEC=y\n",
		"nsm.ko":         objectFile(t, "code", "vermagic=6.12 \x00alias=other\x00"),
		"cmdline":        "init=/bin/sh\n",
		"init":           "og",
	} {
		changed := maps.Clone(ours)
		changed[name] = text
		if f := compare(changed)[name]; f.State != Different {
			t.Errorf("%s changed in another way than by the compiler: %s %q", name, f.State, f.Details)
		}
	}
	ours["nsm.ko"] = "damaged"
	f := compare(ours)["nsm.ko"]
	if f.State != Different || !strings.Contains(strings.Join(f.Details, ""), "not a module") {
		t.Errorf("damaged module: %s %q", f.State, f.Details)
	}
}
