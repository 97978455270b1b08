package contract

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
)

// What an init can do, as words of its note. A new version of a file's format is a new word.
const (
	ReadsApp     = "app1"     // reads the [Description] at [Path], version 1
	ReadsApp2    = "app2"     // also the fields of the Description from CapAdd on, and Docker's capabilities
	ReadsModules = "modules1" // loads the [Modules] at [ModulesPath], version 1
	MountsErofs  = "erofs"    // mounts the parts [RootPart] as its root
	MakesNetwork = "tap1"     // makes the network device of [Description.Network]
)

// Note is the descriptor of the ELF note in neb's init: a name, and the words of what that init can do,
// separated by colons. The Go linker writes it with -buildid (owner "Go", type 4), so that a plain go build
// makes the same program.
const Note = noteName + ":" + ReadsApp + ":" + ReadsApp2 + ":" + ReadsModules + ":" + MountsErofs + ":" +
	MakesNetwork

const noteName = "neb-init"

// Capabilities are the words in the note of an init.
type Capabilities []string

// Has reports whether word is among them.
func (c Capabilities) Has(word string) bool { return slices.Contains(c, word) }

// Layout of ELF64, little-endian, which both architectures use.
const (
	elfHeaderSize  = 64
	programSize    = 56       // one program header
	maxPrograms    = 64       // Go's linker writes 6
	maxNoteSegment = 64 << 10 // bytes that are read of each note segment
	ptNote         = 4        // type of a program header
	noteOwner      = "Go\x00\x00"
	noteType       = 4
)

// ReadCapabilities reads what the ELF program r can do as an enclave's init. It returns none for a program
// without neb's note, such as nitro-cli's init or a file that is not ELF. Errors are those of r.
func ReadCapabilities(r io.ReaderAt) (Capabilities, error) {
	header, err := readAt(r, 0, elfHeaderSize)
	if err != nil || len(header) < elfHeaderSize || string(header[:6]) != "\x7fELF\x02\x01" {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint16(header[54:]) != programSize {
		return nil, nil
	}
	count := min(int(le.Uint16(header[56:])), maxPrograms)
	programs, err := readAt(r, le.Uint64(header[32:]), count*programSize)
	if err != nil {
		return nil, err
	}
	for ; len(programs) >= programSize; programs = programs[programSize:] {
		if le.Uint32(programs) != ptNote {
			continue
		}
		notes, err := readAt(r, le.Uint64(programs[8:]), int(min(le.Uint64(programs[32:]), maxNoteSegment)))
		if err != nil {
			return nil, err
		}
		if found := findNote(notes); found != nil {
			return found, nil
		}
	}
	return nil, nil
}

// findNote looks for neb's note in a segment: notes of sizes of name and descriptor, type, name and
// descriptor, each padded to 4 bytes.
func findNote(b []byte) Capabilities {
	le := binary.LittleEndian
	for len(b) >= 12 {
		name, descriptor, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		at := 12 + (name+3)&^3
		end := at + descriptor
		if end > uint64(len(b)) {
			return nil
		}
		if kind == noteType && string(b[12:12+name]) == noteOwner {
			words := strings.Split(string(b[at:end]), ":")
			if words[0] == noteName {
				return words[1:]
			}
		}
		b = b[min((end+3)&^3, uint64(len(b))):]
	}
	return nil
}

// readAt reads n bytes at an offset, or fewer at the end of r.
func readAt(r io.ReaderAt, at uint64, n int) ([]byte, error) {
	if at >= 1<<62 {
		return nil, nil
	}
	b := make([]byte, n)
	n, err := r.ReadAt(b, int64(at))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}
