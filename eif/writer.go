package eif

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Values of the reference implementation for fields that nothing reads.
const (
	defaultMemory = 1 << 30
	defaultCPUs   = 2
)

// Writer writes an Enclave Image File. Begin each section with [Writer.Next] and write its content; the sizes
// need not be known before. End with [Writer.Close].
//
// The order that the reference implementation writes, and that keeps files comparable, is kernel, command
// line, metadata, ramdisks, signature.
type Writer struct {
	w        io.WriteSeeker
	header   Header
	sections []Section
	m        *meter
	open     bool
	err      error
}

// NewWriter starts a file for an architecture ([X86_64] or [AArch64]) at the beginning of w, which must be
// empty. [Writer.Close] writes the header: until then the file begins with zeros and is not an EIF.
func NewWriter(w io.WriteSeeker, arch string) (*Writer, error) {
	header := Header{Version: Version, Memory: defaultMemory, CPUs: defaultCPUs}
	switch arch {
	case X86_64:
	case AArch64:
		header.Flags = flagAArch64
	default:
		return nil, fmt.Errorf("architecture %q: expected %s or %s", arch, X86_64, AArch64)
	}
	if _, err := w.Write(make([]byte, HeaderSize)); err != nil {
		return nil, err
	}
	return &Writer{w: w, header: header, m: newMeter(w)}, nil
}

// Next ends the section that was being written and begins one of type t.
func (w *Writer) Next(t SectionType) error {
	if err := w.endSection(); err != nil {
		return err
	}
	if len(w.sections) == MaxSections {
		return w.fail(fmt.Errorf("too many sections: an EIF has at most %d", MaxSections))
	}
	if _, known := sectionNames[t]; !known {
		return w.fail(fmt.Errorf("section of %v: expected 1 to %d", t, Meta))
	}
	s := Section{Type: t, Offset: HeaderSize}
	if n := len(w.sections); n > 0 {
		s.Offset = w.sections[n-1].End()
	}
	if _, err := w.w.Write(s.header()); err != nil {
		return w.fail(err)
	}
	w.sections = append(w.sections, s)
	w.m.begin(t)
	w.open = true
	return nil
}

// Write adds to the content of the current section. An error of the file beneath may be reported by a later
// call, at the latest by [Writer.Close].
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.mustBeOpen(); err != nil {
		return 0, err
	}
	w.m.write(p)
	w.sections[len(w.sections)-1].Size += int64(len(p))
	return len(p), nil
}

// ReadFrom adds everything that r still has to the content of the current section.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	if err := w.mustBeOpen(); err != nil {
		return 0, err
	}
	n, err := w.m.readFrom(r)
	w.sections[len(w.sections)-1].Size += n
	if err != nil {
		return n, w.fail(err)
	}
	return n, nil
}

// Measurements ends the current section and returns the registers of the sections so far, without PCR8.
func (w *Writer) Measurements() (Measurements, error) {
	if err := w.endSection(); err != nil {
		return Measurements{}, err
	}
	return w.m.measurements(), nil
}

// Size returns the size of the file so far, in bytes.
func (w *Writer) Size() int64 {
	if n := len(w.sections); n > 0 {
		return w.sections[n-1].End()
	}
	return HeaderSize
}

// Close ends the last section and writes the header, the sizes of the sections and the checksum. It fails if
// [Open] would reject the file. It does not close the file beneath.
func (w *Writer) Close() error {
	if err := w.endSection(); err != nil {
		return err
	}
	file := File{Header: w.header, Sections: w.sections}
	if problems := file.composition(); len(problems) > 0 {
		return w.fail(errors.Join(problems...))
	}
	header := w.header.encode(w.sections)
	crcs := make([]uint32, 0, len(w.sections))
	for _, d := range w.m.digests {
		crcs = append(crcs, d.CRC)
	}
	binary.BigEndian.PutUint32(header[offCRC:], checksum(header, w.sections, crcs))

	end := w.Size()
	for _, s := range w.sections {
		if err := w.writeAt(s.header(), s.Offset); err != nil {
			return w.fail(err)
		}
	}
	if err := w.writeAt(header, 0); err != nil {
		return w.fail(err)
	}
	if _, err := w.w.Seek(end, io.SeekStart); err != nil {
		return w.fail(err)
	}
	w.err = errors.New("the EIF is closed")
	return nil
}

func (w *Writer) writeAt(b []byte, offset int64) error {
	if _, err := w.w.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	_, err := w.w.Write(b)
	return err
}

func (w *Writer) mustBeOpen() error {
	if w.err != nil {
		return w.err
	}
	if !w.open {
		return w.fail(errors.New("write without a section: call Next first"))
	}
	return nil
}

func (w *Writer) endSection() error {
	if w.open {
		w.open = false
		if err := w.m.end(); err != nil && w.err == nil {
			w.err = err
		}
	}
	return w.err
}

// fail keeps the first error, after which the file is unusable.
func (w *Writer) fail(err error) error {
	w.endSection()
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// Abort ends the goroutines of an unfinished file, which is unusable then. After Close it does nothing.
func (w *Writer) Abort() { w.fail(errors.New("writing the EIF was aborted")) }

// Copy writes the sections of a file, except those of a type, as they are.
func (w *Writer) Copy(ctx context.Context, f *File, except SectionType) error {
	w.header.Version, w.header.Memory, w.header.CPUs = f.Version, f.Memory, f.CPUs
	for _, s := range f.Sections {
		if s.Type == except {
			continue
		}
		if err := w.Next(s.Type); err != nil {
			return err
		}
		if _, err := w.ReadFrom(stream.Reader(ctx, f.Content(s))); err != nil {
			return fmt.Errorf("the %v section: %w", s.Type, err)
		}
	}
	return nil
}

// Repair writes a file with the same sections in the same order to w, which must be empty, with nothing
// between and after them and the right sizes in the header. The registers and a signature stay what they are.
// It rejects a file with a wrong checksum, one of a PCIe enclave, and one with nothing to repair.
func Repair(ctx context.Context, w io.WriteSeeker, f *File) (Measurements, error) {
	switch {
	case f.PCIe():
		return Measurements{}, errors.New("the file is of a PCIe enclave, whose PCR0 is not known: " +
			"neb cannot show that it stays the same")
	case len(f.Layout) == 0:
		return Measurements{}, errors.New("nothing to repair: the layout is as the format prescribes")
	}
	pass, err := f.Measure(ctx)
	if pass == nil {
		return Measurements{}, err
	}
	if err := f.CheckCRC(pass); err != nil {
		return Measurements{}, err
	}
	out, err := NewWriter(w, f.Arch())
	if err != nil {
		return Measurements{}, err
	}
	defer out.Abort()
	if err := out.Copy(ctx, f, 0); err != nil {
		return Measurements{}, err
	}
	m, err := out.Measurements()
	if err == nil && m != (Measurements{PCR0: pass.PCR0, PCR1: pass.PCR1, PCR2: pass.PCR2}) {
		err = errors.New("the file changed while neb repaired it")
	}
	if err != nil {
		return Measurements{}, err
	}
	m.PCR8 = pass.PCR8
	return m, out.Close()
}
