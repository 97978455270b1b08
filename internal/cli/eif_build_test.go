package cli

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestImageWithoutPlatform builds images whose configuration names no architecture: --arch decides, unless
// the program is for another one.
func TestImageWithoutPlatform(t *testing.T) {
	f := newEIFFiles(t)
	const said = "the image's configuration names no architecture: assuming --arch x86_64"
	for machine, want := range map[elf.Machine]string{elf.EM_X86_64: "", elf.EM_AARCH64: "[command-arch]"} {
		var program bytes.Buffer
		for _, part := range []any{
			elf.Header64{
				Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
				Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
				Ehsize: 64, Phoff: 64, Phentsize: 56, Phnum: 1,
			},
			elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Filesz: 120,
				Memsz: 120},
		} {
			if err := binary.Write(&program, binary.LittleEndian, part); err != nil {
				t.Fatal(err)
			}
		}
		app := images.File("app", program.String()).With(func(h *tar.Header) { h.Mode = 0o755 })
		layers := images.Layers(t, []images.Entry{app})
		l := images.NewLayout(t)
		config := images.Config("", layers)
		delete(config, "architecture")
		l.Name(l.Manifest(l.JSON("application/vnd.oci.image.config.v1+json", config),
			[]images.Descriptor{l.Blob(string(images.Gzip), images.Gzip.Pack(t, layers[0]))}), "")
		status, out, errs := command("eif", "build", "--image", "oci:"+l.Dir(), "--arch", "x86_64",
			"--blobs", f.path("blobs"), "--nsm", "", "--output", f.path("x.eif"))
		if (status == 0) != (want == "") || !strings.Contains(errs, said) || !strings.Contains(errs, want) {
			t.Errorf("%v: status %d, %s%s, want %q", machine, status, out, errs, want)
		}
	}
}

// TestEntrypointOptions clears the image's ENTRYPOINT, as docker run --entrypoint "" does.
func TestEntrypointOptions(t *testing.T) {
	f := newEIFFiles(t)
	build := func(options ...string) (pcr2, errs string) {
		status, out, errs := command(append([]string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch",
			"x86_64",
			"--blobs", f.path("blobs"), "--nsm", "", "--output", f.path("x.eif")}, options...)...)
		if status != 0 {
			return "", errs
		}
		_, pcr2, _ = strings.Cut(out, `"PCR2": "`)
		return pcr2, ""
	}
	alone, errs := build("--cmd", "/hello")
	empty, errs2 := build("--entrypoint", "", "--cmd", "/hello")
	if alone == "" || alone != empty {
		t.Errorf("the registers are %q and %q; %s%s", alone, empty, errs, errs2)
	}
	if _, errs := build("--entrypoint", ""); !strings.Contains(errs, "neither an ENTRYPOINT nor a CMD") {
		t.Errorf("without a command: %s", errs)
	}
}
