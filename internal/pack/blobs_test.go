package pack_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// Blobs that look like the real ones where pack looks at them.

const release = "6.12.117"

// elfFile is an ELF file with one section and, unless its type is PT_NULL, one segment with the same content.
func elfFile(
	machine elf.Machine, kind elf.Type, segment elf.ProgType, section string, content []byte) []byte {
	le := binary.LittleEndian
	names := "\x00.shstrtab\x00" + section + "\x00"
	var b bytes.Buffer
	segments := uint16(0)
	if segment != elf.PT_NULL {
		segments = 1
	}
	data := uint64(64 + 56*int(segments))
	binary.Write(&b, le, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(kind), Machine: uint16(machine), Version: 1,
		Phoff: 64 * uint64(segments), Shoff: data + uint64(len(content)+len(names)), Ehsize: 64,
		Phentsize: 56, Phnum: segments, Shentsize: 64, Shnum: 3, Shstrndx: 1,
	})
	if segment != elf.PT_NULL {
		binary.Write(&b, le, elf.Prog64{Type: uint32(segment), Off: data, Filesz: uint64(len(content))})
	}
	b.Write(content)
	b.WriteString(names)
	binary.Write(&b, le, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: data + uint64(len(content)), Size: uint64(len(names))},
		{Name: uint32(strings.Index(names, section)), Type: uint32(elf.SHT_PROGBITS), Off: data,
			Size: uint64(len(content))},
	})
	return b.Bytes()
}

var machines = map[string]elf.Machine{eif.X86_64: elf.EM_X86_64, eif.AArch64: elf.EM_AARCH64}

// initProgram is an init whose ELF note has the given text, or one that needs a loader.
func initProgram(arch, interpreter, note string) []byte {
	if interpreter != "" {
		return elfFile(machines[arch], elf.ET_EXEC, elf.PT_INTERP, ".interp", []byte(interpreter))
	}
	var b []byte
	for _, n := range []int{4, len(note), 4} { // sizes of owner and text, type
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	b = append(b, "Go\x00\x00"+note+"\x00\x00\x00"...)
	return elfFile(machines[arch], elf.ET_EXEC, elf.PT_NOTE, ".note.go.buildid", b)
}

func nsmModule(arch, release string) []byte {
	return elfFile(machines[arch], elf.ET_REL, elf.PT_NULL, ".modinfo",
		[]byte("license=GPL\x00vermagic="+release+" SMP mod_unload \x00name=nsm\x00"))
}

// writeBlobs fills a directory with good blobs, and then with the given ones.
func writeBlobs(t testing.TB, arch string, change map[string][]byte) string {
	t.Helper()
	kernel, image := "bzImage", enclaves.BzImage(release)
	if arch == eif.AArch64 {
		kernel, image = "Image", enclaves.Image(release)
	}
	files := map[string][]byte{
		kernel: image,
		kernel + ".config": []byte("#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86_64 " +
			"6.12.117 Kernel Configuration\n#\nCONFIG_X=y\n"),
		"cmdline": []byte("reboot=k panic=30 console=ttyS0\n"),
		"init":    initProgram(arch, "", contract.Note),
		"nsm.ko":  nsmModule(arch, release),
	}
	for name, content := range change {
		files[name] = content
	}
	dir := t.TempDir()
	for name, content := range files {
		if content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBlobs(t *testing.T) {
	for _, arch := range []string{eif.X86_64, eif.AArch64} {
		f := buildFile(t, &pack.Build{Arch: arch, Blobs: pack.BlobsIn(writeBlobs(t, arch, nil), arch),
			RootFS: someTree(t), Overrides: start})
		if f.Arch() != arch {
			t.Errorf("the file is for %s, not %s", f.Arch(), arch)
		}
		// A directory with one for each architecture is as good.
		dir := t.TempDir()
		if err := os.Rename(writeBlobs(t, arch, nil), filepath.Join(dir, arch)); err != nil {
			t.Fatal(err)
		}
		if got, want := pack.BlobsIn(dir, arch).Init, filepath.Join(dir, arch, "init"); got != want {
			t.Errorf("BlobsIn finds %s, not %s", got, want)
		}
	}
}

func TestBadBlobs(t *testing.T) {
	gzip := []byte("\x1f\x8b and so on")
	for _, test := range []struct {
		name   string
		arch   string
		change map[string][]byte
		want   string
	}{
		{"no kernel", eif.X86_64, map[string][]byte{"bzImage": nil}, "no such file"},
		{"a kernel that is none", eif.X86_64, map[string][]byte{"bzImage": gzip},
			"the kernel is compressed with gzip: x86_64 needs a bzImage"},
		{"an empty kernel", eif.X86_64, map[string][]byte{"bzImage": {}}, "neither"},
		{"a zImage", eif.X86_64, map[string][]byte{"bzImage": func() []byte {
			b := enclaves.BzImage(release)
			b[0x211] = 0
			return b
		}()}, "neither"},
		{"a bzImage without its end", eif.X86_64,
			map[string][]byte{"bzImage": enclaves.BzImage(release)[:119_999]},
			"119999 bytes, its header says at least 120000"},
		{"an Image without its end", eif.AArch64,
			map[string][]byte{"Image": enclaves.Image(release)[:1_199_999]},
			"1199999 bytes, its header says at least 1200000"},
		{"an Image without its header's end", eif.AArch64,
			map[string][]byte{"Image": enclaves.Image(release)[:100]}, "the kernel's header: for EFI"},
		{"a bzImage that is a header", eif.X86_64,
			map[string][]byte{"bzImage": enclaves.BzImage(release)[:0x212]}, "the kernel is truncated"},
		{"an Image for x86_64", eif.X86_64, map[string][]byte{"bzImage": enclaves.Image(release)},
			"the kernel is an uncompressed Image: x86_64 needs a bzImage"},
		{"a bzImage for aarch64", eif.AArch64, map[string][]byte{"Image": enclaves.BzImage(release)},
			"the kernel is a bzImage: aarch64 needs an uncompressed Image"},
		{"a compressed Image", eif.AArch64, map[string][]byte{"Image": gzip}, "is compressed with gzip"},
		{"a driver for another kernel", eif.X86_64,
			map[string][]byte{"nsm.ko": nsmModule(eif.X86_64, "6.12.74")},
			"built for kernel 6.12.74, the kernel is 6.12.117"},
		{"a driver for another kernel of aarch64", eif.AArch64,
			map[string][]byte{"nsm.ko": nsmModule(eif.AArch64, "6.12.74")},
			"built for kernel 6.12.74, the kernel is 6.12.117"},
		{"a driver for another architecture", eif.X86_64,
			map[string][]byte{"nsm.ko": nsmModule(eif.AArch64, release)}, "EM_AARCH64"},
		{"a driver that is none", eif.X86_64, map[string][]byte{"nsm.ko": gzip}, "not a kernel module"},
		{"a driver without vermagic", eif.X86_64,
			map[string][]byte{"nsm.ko": elfFile(elf.EM_X86_64, elf.ET_REL, elf.PT_NULL, ".modinfo",
				[]byte("license=GPL\x00"))}, "no vermagic"},
		{"a driver without modinfo", eif.X86_64,
			map[string][]byte{"nsm.ko": elfFile(elf.EM_X86_64, elf.ET_REL, elf.PT_NULL, ".text",
				[]byte("x"))}, "no section .modinfo"},
		{"an init for another architecture", eif.X86_64,
			map[string][]byte{"init": initProgram(eif.AArch64, "", contract.Note)}, "EM_AARCH64"},
		{"an init that is a script", eif.X86_64, map[string][]byte{"init": []byte("#!/bin/sh\n")},
			"not an ELF program"},
		{"an init that needs a loader", eif.X86_64,
			map[string][]byte{"init": initProgram(eif.X86_64, "/lib/ld.so", contract.Note)}, "dynamically"},
		{"a command line of two lines", eif.X86_64, map[string][]byte{"cmdline": []byte("a=b\nc=d\n")},
			"not printable ASCII"},
		{"an empty command line", eif.X86_64, map[string][]byte{"cmdline": []byte(" \n")}, "empty"},
		{"a long command line", eif.X86_64, map[string][]byte{"cmdline": bytes.Repeat([]byte("a"), 2048)},
			"2048 bytes"},
		{"a configuration of one line", eif.X86_64,
			map[string][]byte{"bzImage.config": []byte("CONFIG_X=y\n")}, "fewer than three lines"},
		{"a configuration without a version", eif.X86_64,
			map[string][]byte{"bzImage.config": []byte("a\nb\nCONFIG_X=y\n")}, "line 3 is"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &pack.Build{Arch: test.arch, Blobs: pack.BlobsIn(writeBlobs(t, test.arch, test.change),
				test.arch), RootFS: someTree(t), Overrides: start}
			_, err := b.To(t.Context(), enclaves.TempFile(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
