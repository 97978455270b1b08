// Package sign holds the keys that neb signs with, from PEM files or in AWS KMS behind [crypto.Signer], and
// signs Enclave Image Files and statements (DSSE envelopes) with them.
package sign

import (
	"context"
	"fmt"
	"io"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// EIF writes a copy of a file with a signature by s, in the place of one that it had, to w, which must be
// empty. A file whose checksum is wrong is not signed.
func EIF(ctx context.Context, w io.WriteSeeker, f *eif.File, s *Signer) (eif.Measurements, error) {
	if err := s.Check(); err != nil {
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
	if m.PCR8, err = s.Append(out, m.PCR0); err != nil {
		return m, err
	}
	return m, out.Close()
}

// Append writes the signature of an image with pcr0 as the next section, and returns PCR8.
func (s *Signer) Append(out *eif.Writer, pcr0 eif.PCR) (*eif.PCR, error) {
	certificate, err := eif.ParseCertificate(s.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the signing certificate: %w", err)
	}
	section, err := eif.Sign(s.Key, s.Certificate, pcr0, s.At)
	if err != nil {
		return nil, err
	}
	if err := out.Next(eif.Signature); err != nil {
		return nil, err
	}
	if _, err := out.Write(section); err != nil {
		return nil, err
	}
	pcr8 := eif.PCR8(certificate)
	return &pcr8, nil
}
