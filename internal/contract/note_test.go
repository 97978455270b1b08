package contract

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// program is an ELF file with one note segment.
func program(notes []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, elfHeaderSize+programSize)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[54:], programSize)
	le.PutUint16(b[56:], 1)
	p := b[elfHeaderSize:]
	le.PutUint32(p, ptNote)
	le.PutUint64(p[8:], uint64(len(b)))
	le.PutUint64(p[32:], uint64(len(notes)))
	return append(b, notes...)
}

// note is one note, padded.
func note(owner string, kind uint32, descriptor string) []byte {
	var b []byte
	for _, n := range []uint32{uint32(len(owner)), uint32(len(descriptor)), kind} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	for _, s := range []string{owner, descriptor} {
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&3)...)
	}
	return b
}

func TestReadCapabilities(t *testing.T) {
	ours := note("Go\x00\x00", 4, Note)
	all := Capabilities{ReadsApp, ReadsApp2, ReadsModules, MountsErofs, MakesNetwork}
	for name, c := range map[string]struct {
		file []byte
		want Capabilities
	}{
		"ours":           {program(ours), all},
		"behind another": {program(append(note("GNU\x00", 3, "12345"), ours...)), all},
		"words of the future": {program(note("Go\x00\x00", 4, "neb-init:app2:erofs")),
			Capabilities{"app2", "erofs"}},
		"Go's own build ID":  {program(note("Go\x00\x00", 4, "abc/def/ghi")), nil},
		"another owner":      {program(note("GNU\x00", 4, Note)), nil},
		"another type":       {program(note("Go\x00\x00", 3, Note)), nil},
		"no program headers": {program(ours)[:elfHeaderSize], nil},
		"cut":                {program(ours)[:elfHeaderSize+programSize+30], nil},
		"not ELF":            {[]byte("#!/bin/sh\n# " + Note), nil},
		"empty":              {nil, nil},
	} {
		got, err := ReadCapabilities(bytes.NewReader(c.file))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q %v, want %q", name, got, err, c.want)
		}
	}
	if !all.Has(MountsErofs) || (Capabilities{}).Has(ReadsApp) {
		t.Error("Has is wrong")
	}
}

// The Go linker writes the note when it is told to.
func TestLinkedNote(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a program")
	}
	dir := t.TempDir()
	source, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "out")
	if err := os.WriteFile(source, []byte("package main\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w -buildid="+Note, "-o", out, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := ReadCapabilities(f); err != nil || !got.Has(ReadsApp) || !got.Has(MountsErofs) {
			t.Errorf("%s: %q %v", arch, got, err)
		}
	}
}

// FuzzReadCapabilities reads hostile programs.
func FuzzReadCapabilities(f *testing.F) {
	good := program(append(note("GNU\x00", 3, "12345"), note("Go\x00\x00", 4, Note)...))
	f.Add(good)
	f.Add(good[:len(good)-7])
	far := bytes.Clone(good)
	binary.LittleEndian.PutUint64(far[32:], 1<<63)
	f.Add(far)
	huge := bytes.Clone(good)
	binary.LittleEndian.PutUint64(huge[elfHeaderSize+32:], 1<<63)
	binary.LittleEndian.PutUint32(huge[elfHeaderSize+programSize:], 1<<32-1)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadCapabilities(bytes.NewReader(b))
		if err != nil {
			t.Error(err)
		}
		if size := len(got); size > maxNoteSegment {
			t.Errorf("%d words", size)
		}
	})
}
