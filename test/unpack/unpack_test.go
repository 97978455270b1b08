// Package unpack_test has the enclave's kernel unpack ramdisks, and compares what comes of them.
package unpack_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// TestPuzzlesInTheKernel lets a kernel unpack all puzzles, each in a directory of its own, and has a program
// in the machine list what came of it.
func TestPuzzlesInTheKernel(t *testing.T) {
	const arch = "x86_64"
	lister := vm.Program(t, arch, "./testdata/lister")
	vm.Emulator(t)
	blobs := vm.Blobs(t, arch)

	dir := t.TempDir()
	tree := image.NewTree(dir, image.Limits{})
	defer tree.Close()
	if err := tree.Put(&image.Entry{Path: "dev", Mode: initramfs.TypeDir | 0o755}, nil); err != nil {
		t.Fatal(err)
	}
	if err := tree.PutFile(&image.Entry{Path: "init", Mode: initramfs.TypeFile | 0o755}, lister); err != nil {
		t.Fatal(err)
	}
	first := ramdisk(t, tree)
	ramdisks := [][]byte{first}
	for i, p := range Puzzles {
		l := NewLayout(t)
		l.Name(l.Image("amd64", p.Archives(t), Gzip), "")
		img, err := image.Open(t.Context(), "oci:"+l.Dir(), image.Options{Arch: arch})
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		defer img.Close()
		tree := image.NewTree(dir, image.Limits{})
		defer tree.Close()
		if err := tree.AddImage(t.Context(), img, fmt.Sprintf("puzzles/%02d/", i)); err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		ramdisks = append(ramdisks, ramdisk(t, tree))
	}
	file := filepath.Join(dir, "puzzles.eif")
	writeEIF(t, file, arch, blobs, first, bytes.Join(ramdisks[1:], nil))

	m := vm.Start(t, machine.Config{EIF: file, Memory: 512 << 20})
	m.Says("PUZZLES END")
	got := map[string][]string{}
	for line := range strings.Lines(m.Console()) {
		// The lister puts a mark, and the number of the puzzle, before each line; the kernel may write
		// between them.
		_, line, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "PUZZLE ")
		if !ok {
			continue
		}
		number, rest, _ := strings.Cut(line, "/")
		got[number] = append(got[number], rest)
	}
	for i, p := range Puzzles {
		t.Run(p.Name, func(t *testing.T) {
			Compare(t, got[fmt.Sprintf("%02d", i)], p.Want)
		})
	}
}

func ramdisk(t *testing.T, tree *image.Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tree.WriteRamdisk(&b, image.Ramdisk{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
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
