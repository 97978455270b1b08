package pack

import (
	"context"
	"fmt"
	"io"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// Sign writes a copy of a file with a signature by s, in the place of one that it had, to w, which must be empty. A file
// whose checksum is wrong is not signed.
func Sign(ctx context.Context, w io.WriteSeeker, f *eif.File, s *Signer) (eif.Measurements, error) {
	if err := s.check(); err != nil {
		return eif.Measurements{}, err
	}
	pass, err := f.Measure(ctx)
	if pass == nil {
		return eif.Measurements{}, err // a signature that cannot be read is no hindrance: it goes
	}
	if pass.CRC != f.CRC {
		return eif.Measurements{}, fmt.Errorf("the checksum in the header is %08x, and the file has %08x: it was cut, or changed, and is not signed", f.CRC, pass.CRC)
	}
	out, err := eif.NewWriter(w, f.Arch())
	if err != nil {
		return eif.Measurements{}, err
	}
	defer out.Abort()
	out.Header(f.Header)
	for _, section := range f.Sections {
		if section.Type == eif.Signature {
			continue
		}
		if err := ctx.Err(); err != nil {
			return eif.Measurements{}, context.Cause(ctx)
		}
		if err := out.Next(section.Type); err != nil {
			return eif.Measurements{}, err
		}
		if _, err := out.ReadFrom(f.Content(section)); err != nil {
			return eif.Measurements{}, fmt.Errorf("the %v section: %w", section.Type, err)
		}
	}
	m, err := out.Measurements()
	if err != nil {
		return m, err
	}
	if m.PCR0 != pass.PCR0 {
		return m, fmt.Errorf("the file changed while it was signed")
	}
	if m.PCR8, err = sign(out, s, m.PCR0); err != nil {
		return m, err
	}
	return m, out.Close()
}
