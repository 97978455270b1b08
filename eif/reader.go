package eif

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// File is an Enclave Image File whose structure has been read. It reads contents on demand.
type File struct {
	Header
	Sections []Section
	CRC      uint32 // in the header; [File.CheckCRC] compares it with the content

	// Layout lists where the sections do not lie as the specification has them: gaps, another order, bytes
	// after the last, a size that Amazon's signer left. Hypervisor, QEMU and this package find the sections
	// by the header's table, so that such a file starts; nitro-cli reads one section after the other.
	Layout []error

	r      io.ReaderAt
	header []byte
	end    int64 // of the file, in bytes
}

// Open reads the structure of an Enclave Image File of size bytes: the header and the header of every
// section, by the header's table. It rejects a file that breaks the specification in those, except by
// [File.Layout]; the error lists all that is wrong. It does not look into the sections, and does not check
// the checksum: [File.Measure] and [File.CheckCRC] do.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f, problems := Inspect(r, size)
	return f, errors.Join(problems...)
}

// Inspect reads the structure of a file as [Open] does, and lists everything that is wrong with it. It
// returns no file if the sections cannot be found.
func Inspect(r io.ReaderAt, size int64) (*File, []error) {
	if size < HeaderSize {
		return nil, []error{fmt.Errorf("the file has %d bytes: the header alone has %d", size, HeaderSize)}
	}
	head := make([]byte, HeaderSize)
	if err := readAt(r, head, 0); err != nil {
		return nil, []error{fmt.Errorf("read the header: %w", err)}
	}
	if [4]byte(head[offMagic:]) != Magic {
		return nil, []error{fmt.Errorf("the file begins with %q: expected %q", head[:4], Magic[:])}
	}
	f := &File{
		Header: Header{
			Version: binary.BigEndian.Uint16(head[offVersion:]),
			Flags:   binary.BigEndian.Uint16(head[offFlags:]),
			Memory:  binary.BigEndian.Uint64(head[offMemory:]),
			CPUs:    binary.BigEndian.Uint64(head[offCPUs:]),
		},
		CRC:    binary.BigEndian.Uint32(head[offCRC:]),
		r:      r,
		header: head,
		end:    size,
	}
	if f.Version < MinVersion || f.Version > Version {
		return nil, []error{fmt.Errorf("EIF version %d: expected %d to %d", f.Version, MinVersion, Version)}
	}

	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if rest := f.Flags &^ flagAArch64; rest != 0 && !f.PCIe() {
		wrong("the header's reserved flags are %#x: expected 0", rest)
	}
	if v := binary.BigEndian.Uint16(head[offReserved:]); v != 0 {
		wrong("the header's reserved field at byte %d is %#x: expected 0", offReserved, v)
	}
	if v := binary.BigEndian.Uint32(head[offUnused:]); v != 0 {
		wrong("the header's unused field at byte %d is %#x: expected 0", offUnused, v)
	}
	count := int(binary.BigEndian.Uint16(head[offNumSections:]))
	if count < MinSections || count > MaxSections {
		wrong("the header counts %d sections: expected %d to %d", count, MinSections, MaxSections)
		return nil, problems
	}
	for i := count; i < MaxSections; i++ {
		if head64(head, offOffsets, i) != 0 || head64(head, offSizes, i) != 0 {
			wrong("the header counts %d sections, but its table has an entry for section %d", count, i)
		}
	}
	for i := range count {
		s, err := f.section(i)
		if err != nil {
			return nil, append(problems, err)
		}
		if _, known := sectionNames[s.Type]; !known {
			wrong("section %d at byte %d has %v: expected 1 to %d", i, s.Offset, s.Type, Meta)
		}
		if s.Flags != 0 {
			wrong("section %d (%v): its reserved flags are %#x: expected 0", i, s.Type, s.Flags)
		}
		f.Sections = append(f.Sections, s)
	}
	if err := f.layout(); err != nil {
		return nil, append(problems, err)
	}
	return f, append(problems, f.composition()...)
}

// section reads the header of section i, where the file's header places it.
func (f *File) section(i int) (Section, error) {
	offset, length := head64(f.header, offOffsets, i), head64(f.header, offSizes, i)
	if offset < HeaderSize || offset > uint64(f.end) || f.end-int64(offset) < SectionHeaderSize {
		return Section{}, fmt.Errorf("section %d: the header places it at byte %d, "+
			"expected a byte from %d on in the file of %d bytes", i, offset, HeaderSize, f.end)
	}
	own := make([]byte, SectionHeaderSize)
	if err := readAt(f.r, own, int64(offset)); err != nil {
		return Section{}, fmt.Errorf("section %d: read its header at byte %d: %w", i, offset, err)
	}
	s := Section{
		Type:   SectionType(binary.BigEndian.Uint16(own[0:])),
		Flags:  binary.BigEndian.Uint16(own[2:]),
		Offset: int64(offset),
	}
	if ownSize := binary.BigEndian.Uint64(own[4:]); ownSize != length {
		if s.Type != Signature {
			return s, fmt.Errorf("section %d (%v): %d bytes by the file's header, %d by its own",
				i, s.Type, length, ownSize)
		}
		// EifSigner::write_signature of aws-nitro-enclaves-image-format, its issue 54.
		f.Layout = append(f.Layout,
			fmt.Errorf("the signature has %d bytes by the file's header, %d by its own: "+
				"nitro-cli sign-eif leaves the old size when it replaces a signature", length, ownSize))
		length = ownSize
	}
	if room := f.end - s.Content(); length > uint64(room) {
		return s, fmt.Errorf("section %d: %d bytes at byte %d do not fit into the file of %d bytes",
			i, length, offset, f.end)
	}
	s.Size = int64(length)
	return s, nil
}

// layout checks where the sections lie, and adds to Layout. It rejects sections that overlap, and an order of
// ramdisks that differs between table and file: their registers would depend on the reader.
func (f *File) layout() error {
	inFile := slices.Clone(f.Sections)
	slices.SortStableFunc(inFile, func(a, b Section) int { return cmp.Compare(a.Offset, b.Offset) })
	measured := func(all []Section) []Section {
		return slices.DeleteFunc(slices.Clone(all), func(s Section) bool {
			return s.Type == Meta ||
				s.Type == Signature
		})
	}
	if !slices.Equal(measured(inFile), measured(f.Sections)) {
		return errors.New("kernel, command line and ramdisks are in another order in the header than in " +
			"the file: nitro-cli computes other registers for it than the hypervisor")
	}
	add := func(format string, args ...any) { f.Layout = append(f.Layout, fmt.Errorf(format, args...)) }
	if !slices.Equal(inFile, f.Sections) {
		add("the sections lie in the file in another order than in the header's table")
	}
	at := int64(HeaderSize)
	for _, s := range inFile {
		if s.Offset < at {
			return fmt.Errorf("the %v section at byte %d overlaps what ends at byte %d", s.Type, s.Offset, at)
		}
		if s.Offset > at {
			add("%d bytes at byte %d, before the %v section, belong to no section", s.Offset-at, at, s.Type)
		}
		at = s.End()
	}
	if at != f.end {
		add("%d bytes after the last section, at byte %d, belong to no section", f.end-at, at)
	}
	return nil
}

// composition lists what is wrong with the number and the order of the sections.
func (f *File) composition() (problems []error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	count := map[SectionType]int{}
	for i, s := range f.Sections {
		if s.Type == Ramdisk && count[Kernel] == 0 {
			wrong("section %d is a ramdisk before the kernel", i)
		}
		count[s.Type]++
	}
	metadata := 1
	if f.Version < 4 {
		metadata = 0
	}
	for _, rule := range []struct {
		t           SectionType
		least, most int
	}{
		{Kernel, 1, 1},
		{Cmdline, 1, 1},
		{Ramdisk, 1, MaxSections},
		{Meta, metadata, 1},
		{Signature, 0, 1},
	} {
		if n := count[rule.t]; n < rule.least {
			wrong("the file has no %v section", rule.t)
		} else if n > rule.most {
			wrong("the file has %d %v sections: expected at most %d", n, rule.t, rule.most)
		}
	}
	for _, s := range f.Sections {
		if s.Type == Signature && s.Size > MaxSignature {
			wrong("the signature section has %d bytes: expected at most %d", s.Size, MaxSignature)
		}
	}
	return problems
}

// Content returns a reader of one of the file's sections.
func (f *File) Content(s Section) *io.SectionReader {
	return io.NewSectionReader(f.r, s.Content(), s.Size)
}

// Find returns the first section of a type; ok is false if there is none.
func (f *File) Find(t SectionType) (s Section, ok bool) {
	for _, s := range f.Sections {
		if s.Type == t {
			return s, true
		}
	}
	return Section{}, false
}

// All returns the sections of a type, in the order of the file.
func (f *File) All(t SectionType) []Section {
	var all []Section
	for _, s := range f.Sections {
		if s.Type == t {
			all = append(all, s)
		}
	}
	return all
}

// Limits of the sections that are read into memory, in bytes.
const (
	maxCmdline  = 64 << 10
	maxMetadata = 8 << 20
)

// Cmdline returns the kernel's command line.
func (f *File) Cmdline() (string, error) {
	b, err := f.small(Cmdline, maxCmdline)
	return string(b), err
}

// small reads a required section of at most the given size.
func (f *File) small(t SectionType, most int64) ([]byte, error) {
	s, ok := f.Find(t)
	if !ok {
		return nil, fmt.Errorf("the file has no %v section", t)
	}
	if s.Size > most {
		return nil, fmt.Errorf("the %v section has %d bytes: expected at most %d", t, s.Size, most)
	}
	b := make([]byte, s.Size)
	if err := readAt(f.r, b, s.Content()); err != nil {
		return nil, fmt.Errorf("read the %v section: %w", t, err)
	}
	return b, nil
}

// Pass is the result of reading a whole file once.
type Pass struct {
	Measurements
	CRC      uint32          // of the content; see [File.CheckCRC]
	Sections []SectionDigest // of each section, in the order of the file
}

// Measure reads the whole file once and computes its registers, its checksum and the digest of each section.
// PCR0 is zero for a file of a PCIe enclave, see [Header.PCIe]. PCR8 is that of the certificate in the
// signature section, if there is one. If the signature cannot be read, Measure returns an error and the other
// registers. It fails with the cause of ctx once ctx is done.
func (f *File) Measure(ctx context.Context) (*Pass, error) {
	m := newMeter(nil)
	crcs := make([]uint32, 0, len(f.Sections))
	for i, s := range f.Sections {
		m.begin(s.Type)
		n, err := m.readFrom(stream.Reader(ctx, f.Content(s)))
		m.end()
		if err == nil && n != s.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("read section %d (%v) at byte %d: %w", i, s.Type, s.Content()+n, err)
		}
		crcs = append(crcs, m.digests[i].CRC)
	}
	pass := &Pass{
		Measurements: m.measurements(),
		CRC:          checksum(f.header, f.Sections, crcs),
		Sections:     m.digests,
	}
	if f.PCIe() {
		pass.PCR0 = PCR{}
	}
	if pass.CRC != f.CRC && len(f.Layout) > 0 {
		whole, err := f.wholeCRC(ctx)
		if err != nil {
			return nil, err
		}
		if whole == f.CRC {
			pass.CRC = whole
		}
	}
	if _, signed := f.Find(Signature); signed {
		signatures, err := f.Signatures()
		if err != nil {
			return pass, err
		}
		pcr8, err := signatures[0].PCR8()
		if err != nil {
			return pass, err
		}
		pass.PCR8 = &pcr8
	}
	return pass, nil
}

// wholeCRC is the checksum of all bytes of a file, with those that belong to no section. The reference sums
// them too (aws-nitro-enclaves-image-format, pull request 26); QEMU does not.
func (f *File) wholeCRC(ctx context.Context) (uint32, error) {
	sum := crc32.NewIEEE()
	sum.Write(f.header[:offCRC])
	rest := io.NewSectionReader(f.r, HeaderSize, f.end-HeaderSize)
	_, err := io.Copy(sum, stream.Reader(ctx, rest))
	return sum.Sum32(), err
}

// CheckCRC fails if the checksum that a pass over the file computed differs from the one in its header.
func (f *File) CheckCRC(pass *Pass) error {
	if pass.CRC != f.CRC {
		return fmt.Errorf("checksum mismatch: the header has %08x, the content %08x; "+
			"the file is truncated or changed", f.CRC, pass.CRC)
	}
	return nil
}

// head64 returns entry i of one of the header's two tables.
func head64(head []byte, table, i int) uint64 { return binary.BigEndian.Uint64(head[table+8*i:]) }

// readAt fills b, or fails.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
