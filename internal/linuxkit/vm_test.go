package linuxkit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// TestPuzzlesInTheKernel lets a kernel unpack all puzzles, each in a directory of its own, and has a program in the machine
// list what came of it.
func TestPuzzlesInTheKernel(t *testing.T) {
	const arch = "x86_64"
	lister := vm.Program(t, arch, "./testdata/lister")
	vm.Emulator(t)
	blobs := vm.Blobs(t, arch)

	dir := t.TempDir()
	bootstrap := &linuxkit.Config{Files: []linuxkit.File{
		{Path: "dev", Directory: true, Mode: "0755"}, {Path: "init", Source: lister, Mode: "0755"},
	}}
	first, err := ramdisk(t, bootstrap, linuxkit.Ramdisk{})
	if err != nil {
		t.Fatal(err)
	}
	ramdisks := [][]byte{first}
	for i, p := range puzzles {
		l := NewLayout(t)
		l.Name(l.Image("amd64", layers(t, p.layers), Gzip), "")
		b, err := ramdisk(t, &linuxkit.Config{Init: []string{"oci:" + l.Dir()}, Prefix: fmt.Sprintf("puzzles/%02d/", i)}, linuxkit.Ramdisk{})
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		ramdisks = append(ramdisks, b)
	}
	file := filepath.Join(dir, "puzzles.eif")
	writeEIF(t, file, arch, blobs, first, bytes.Join(ramdisks[1:], nil))

	m := vm.Start(t, machine.Config{EIF: file, Memory: 512 << 20})
	m.Says("PUZZLES END")
	got := map[string][]string{}
	for line := range strings.Lines(m.Console()) {
		// The lister puts a mark, and the number of the puzzle, before each line; the kernel may write between them.
		_, line, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "PUZZLE ")
		if !ok {
			continue
		}
		number, rest, _ := strings.Cut(line, "/")
		got[number] = append(got[number], rest)
	}
	for i, p := range puzzles {
		t.Run(p.name, func(t *testing.T) {
			compare(t, slices.Clone(got[fmt.Sprintf("%02d", i)]), wanted(p.want))
		})
	}
}

func writeEIF(t *testing.T, file, arch, blobs string, ramdisks ...[]byte) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := eif.NewWriter(f, arch)
	section := func(kind eif.SectionType, b []byte, failed error) {
		t.Helper()
		if err == nil {
			err = failed
		}
		if err == nil {
			err = w.Next(kind)
		}
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kernel, failed := os.ReadFile(filepath.Join(blobs, "bzImage"))
	section(eif.Kernel, kernel, failed)
	cmdline, failed := os.ReadFile(filepath.Join(blobs, "cmdline"))
	section(eif.Cmdline, bytes.TrimSpace(cmdline), failed)
	section(eif.Meta, []byte("{}"), nil)
	for _, b := range ramdisks {
		section(eif.Ramdisk, b, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
