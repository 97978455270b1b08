// Package enclaves makes kernels, ramdisks and Enclave Image Files for tests, by hand where package eif does
// not matter.
package enclaves

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// CPIO makes a newc archive by hand, by the kernel's buffer-format.rst.
func CPIO(entries ...Entry) []byte {
	var b bytes.Buffer
	for i, e := range append(entries, Entry{Name: "TRAILER!!!", Links: 1}) {
		links, inode := max(e.Links, 1), i+1
		if e.Inode != 0 {
			inode = e.Inode
		}
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", inode, e.Mode, 0, 0,
			links, 0, len(e.Content), 0, 0, 0, 0, len(e.Name)+1, 0)
		b.WriteString(e.Name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(e.Content)
		b.Write(make([]byte, -b.Len()&3))
	}
	return b.Bytes()
}

// Dir is a directory with mode 0755.
func Dir(name string) Entry { return Entry{Name: name, Mode: 0o40755} }

// File is a regular file with mode 0644.
func File(name, content string) Entry {
	return Entry{Name: name, Mode: 0o100644, Content: []byte(content)}
}

// Linked is one of two names of a file; all of them are names of the same file.
func Linked(name, content string) Entry {
	e := File(name, content)
	e.Links, e.Inode = 2, 1000
	return e
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Name: name, Mode: 0o120777, Content: []byte(target)}
}

// Section is a section of an EIF.
type Section struct {
	Type    eif.SectionType
	Content []byte
}

// Write writes an EIF for x86_64 to a temporary file, and returns its size.
func Write(t testing.TB, all []Section) (*os.File, int64) {
	t.Helper()
	out := TempFile(t)
	w, err := eif.NewWriter(out, eif.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if err := w.Next(p.Type); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(p.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out, w.Size()
}

// BzImage looks like an x86_64 kernel where neb looks at it.
func BzImage(release string) []byte {
	b := bytes.Repeat([]byte("kernel"), 20_000)
	copy(b[0x1fe:], "\x55\xaa")
	copy(b[0x202:], "HdrS")
	b[0x211] = 1
	b[0x1f1] = 31
	binary.LittleEndian.PutUint32(b[0x1f4:], uint32(len(b)-32*512)/16)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x300)
	copy(b[0x500:], release+" (build@neb) #1 SMP\x00")
	return b
}

// Image looks like an aarch64 kernel where neb looks at it.
func Image(release string) []byte {
	b := bytes.Repeat([]byte("kernel"), 200_000)
	copy(b, "MZ")
	copy(b[0x38:], "ARM\x64")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x40)
	var header bytes.Buffer
	header.WriteString("PE\x00\x00")
	binary.Write(&header, binary.LittleEndian, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_ARM64,
		NumberOfSections: 2})
	binary.Write(&header, binary.LittleEndian, []pe.SectionHeader32{
		{Name: [8]uint8{'.', 't', 'e', 'x', 't'}, SizeOfRawData: 600_000, PointerToRawData: 4096},
		{Name: [8]uint8{'.', 'd', 'a', 't', 'a'}, VirtualSize: 9_000_000,
			SizeOfRawData: uint32(len(b) - 604_096), PointerToRawData: 604_096},
	})
	copy(b[0x40:], header.Bytes())
	// across the end of a read buffer
	copy(b[1<<20-100:], "\x00Linux version "+release+" (build@neb) (gcc) #1 SMP\n\x00")
	return b
}

// Entry is an entry of a newc archive.
type Entry struct {
	Name     string
	Mode     uint64
	UID, GID uint64 // read only
	ModTime  uint64 // read only; seconds since 1970
	Links    uint64
	Content  []byte
	Inode    int // written only; 0 is the next
}

// ReadCPIO reads a newc archive by hand, independently of package initramfs.
func ReadCPIO(t testing.TB, b []byte) []Entry {
	t.Helper()
	var all []Entry
	for at := 0; at < len(b); {
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("no entry at byte %d: %q", at, b[at:at+6])
		}
		var field [13]uint64
		for i := range field {
			if _, err := fmt.Sscanf(string(b[at+6+8*i:at+14+8*i]), "%x", &field[i]); err != nil {
				t.Fatal(err)
			}
		}
		size, nameSize := int(field[6]), int(field[11])
		name := string(b[at+110 : at+110+nameSize-1])
		at = (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			if rest := bytes.Trim(b[at:], "\x00"); len(rest) > 0 {
				t.Fatalf("%d bytes after the trailer", len(rest))
			}
			return all
		}
		all = append(all, Entry{Name: name, Mode: field[1], UID: field[2], GID: field[3], Links: field[4],
			ModTime: field[5], Content: b[at : at+size]})
		at = (at + size + 3) &^ 3
	}
	t.Fatal("the archive has no trailer")
	return nil
}

// Find returns the first entry of a name, or nil.
func Find(entries []Entry, name string) *Entry {
	for i := range entries {
		if entries[i].Name == name {
			return &entries[i]
		}
	}
	return nil
}

// TempFile creates a file that is closed and removed at the end of the test.
func TempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out.eif"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Certificate makes a key on P-384 and the PEM text of its own certificate, valid from an hour before noon to
// an hour after.
func Certificate(t testing.TB, name string, noon time.Time) (crypto.Signer, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		Subject: pkix.Name{CommonName: name, Country: []string{"DE"},
			Organization: []string{"An Organisation"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
