package eif

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Sizes and limits of the format.
const (
	HeaderSize        = 548   // bytes of the file's header
	SectionHeaderSize = 12    // bytes of the header of each section
	MinSections       = 2     // of a file, by the specification
	MaxSections       = 32    // of a file: the header has no room for more
	MaxSignature      = 32768 // bytes of a signature section
	Version           = 4     // that this package writes
	MinVersion        = 2     // the oldest that was ever released
)

// The architectures an enclave can have, as this module spells them everywhere.
const (
	X86_64  = "x86_64"
	AArch64 = "aarch64"
)

// Magic is the first four bytes of every Enclave Image File.
var Magic = [4]byte{'.', 'e', 'i', 'f'}

// Bits of the header's flags. The specification has the first: set for aarch64, clear for x86_64. The others
// mark PCIe ("sidecar") enclaves, which have a PCI bus and a disk; Bottlerocket's eif-builder sets 0x240.
const (
	flagAArch64    = 1
	flagPCIe       = 1 << 6
	flagPCIeVirtio = 1 << 9
)

// Offsets of the header's fields, in bytes.
const (
	offMagic       = 0
	offVersion     = 4
	offFlags       = 6
	offMemory      = 8
	offCPUs        = 16
	offReserved    = 24
	offNumSections = 26
	offOffsets     = 28
	offSizes       = offOffsets + 8*MaxSections
	offUnused      = offSizes + 8*MaxSections
	offCRC         = offUnused + 4
)

// SectionType is the kind of a section's content.
type SectionType uint16

// The types of sections. A file has exactly one kernel, one command line and, from version 4 on, one metadata
// section; one or more ramdisks, all of them after the kernel; and at most one signature.
const (
	Kernel    SectionType = 1 // a bzImage (x86_64) or an uncompressed Image (aarch64)
	Cmdline   SectionType = 2 // the kernel's command line, without a newline
	Ramdisk   SectionType = 3 // a newc archive, plain or compressed; the kernel unpacks all of them, in order
	Signature SectionType = 4 // who signed PCR0 (see [ParseSignature])
	Meta      SectionType = 5 // JSON about how the file was made (see [Metadata]); no register covers it
)

var sectionNames = map[SectionType]string{
	Kernel: "kernel", Cmdline: "cmdline", Ramdisk: "ramdisk", Signature: "signature", Meta: "metadata",
}

// String returns the name of the section type, such as "ramdisk".
func (t SectionType) String() string {
	if name, ok := sectionNames[t]; ok {
		return name
	}
	return fmt.Sprintf("unknown type %d", uint16(t))
}

// Header is the first 548 bytes of a file, without the table of its sections and its checksum.
type Header struct {
	Version uint16 // of the format
	Flags   uint16 // bit 0 is the architecture; the others are reserved, or of PCIe enclaves
	Memory  uint64 // default memory of the enclave in bytes; nothing reads it
	CPUs    uint64 // default number of CPUs; nothing reads it
}

// Arch returns the architecture that the flags name.
func (h Header) Arch() string {
	if h.Flags&flagAArch64 != 0 {
		return AArch64
	}
	return X86_64
}

// PCIe reports whether the flags are those of a PCIe enclave. PCR0 of such an image includes the flags, by a
// rule that is not public, so that nothing here computes it.
func (h Header) PCIe() bool { return h.Flags&(flagPCIe|flagPCIeVirtio) != 0 }

// FlagNames returns the names of the bits that are set in the header's flags, such as "aarch64 pcie": those
// without a name in hexadecimal. It returns "" for none.
func (h Header) FlagNames() string {
	var names []string
	rest := h.Flags
	for _, bit := range []struct {
		flag uint16
		name string
	}{{flagAArch64, AArch64}, {flagPCIe, "pcie"}, {flagPCIeVirtio, "pcie-virtio"}} {
		if rest&bit.flag != 0 {
			names = append(names, bit.name)
			rest &^= bit.flag
		}
	}
	if rest != 0 {
		names = append(names, fmt.Sprintf("%#x", rest))
	}
	return strings.Join(names, " ")
}

// Section is one section of a file.
type Section struct {
	Type   SectionType
	Flags  uint16 // of the section's own header; reserved
	Offset int64  // of the section's header, in bytes from the start of the file
	Size   int64  // of the content, in bytes, without the 12 bytes of the header
}

// Content returns where the section's content begins, in bytes from the start of the file.
func (s Section) Content() int64 { return s.Offset + SectionHeaderSize }

// End returns where the section ends, in bytes from the start of the file.
func (s Section) End() int64 { return s.Offset + SectionHeaderSize + s.Size }

// header returns the section's own header as the file stores it.
func (s Section) header() []byte {
	b := make([]byte, 0, SectionHeaderSize)
	b = binary.BigEndian.AppendUint16(b, uint16(s.Type))
	b = binary.BigEndian.AppendUint16(b, s.Flags)
	return binary.BigEndian.AppendUint64(b, uint64(s.Size))
}

// encode returns the header as the file stores it, with the table of sections and a checksum of zero.
func (h Header) encode(sections []Section) []byte {
	b := make([]byte, HeaderSize)
	copy(b[offMagic:], Magic[:])
	binary.BigEndian.PutUint16(b[offVersion:], h.Version)
	binary.BigEndian.PutUint16(b[offFlags:], h.Flags)
	binary.BigEndian.PutUint64(b[offMemory:], h.Memory)
	binary.BigEndian.PutUint64(b[offCPUs:], h.CPUs)
	binary.BigEndian.PutUint16(b[offNumSections:], uint16(len(sections)))
	for i, s := range sections {
		binary.BigEndian.PutUint64(b[offOffsets+8*i:], uint64(s.Offset))
		binary.BigEndian.PutUint64(b[offSizes+8*i:], uint64(s.Size))
	}
	return b
}
