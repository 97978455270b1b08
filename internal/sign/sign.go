// Package sign holds the keys that neb signs with, from PEM files or in AWS KMS behind [crypto.Signer], and
// signs Enclave Image Files and statements (DSSE envelopes) with them.
package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Signer signs EIFs: a key and the PEM text of its certificate.
type Signer struct {
	Key         crypto.Signer
	Certificate []byte
	At          time.Time // when the certificate must be valid; the zero time for any
}

// Load reads a private key and a certificate from PEM files.
func Load(keyFile, certificateFile string) (*Signer, error) {
	key, err := ReadPrivateKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("the private key: %w", err)
	}
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("private key %s: found %T, expected ECDSA on P-256, P-384 or P-521", keyFile,
			key)
	}
	certificate, err := LoadCertificate(certificateFile)
	if err != nil {
		return nil, err
	}
	return &Signer{Key: key, Certificate: certificate}, nil
}

// LoadCertificate reads the PEM text of a signing certificate from a file, and checks that it holds a
// certificate.
func LoadCertificate(path string) ([]byte, error) {
	text, err := stream.ReadFile(path, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("the signing certificate: %w", err)
	}
	if _, err := eif.ParseCertificate(text); err != nil {
		return nil, fmt.Errorf("the signing certificate %s: %w", path, err)
	}
	return text, nil
}

// Check rejects a certificate that is not valid, so that callers do not write a whole file first.
func (s *Signer) Check() error {
	certificate, err := eif.ParseCertificate(s.Certificate)
	if err != nil {
		return fmt.Errorf("the signing certificate: %w", err)
	}
	if s.At.IsZero() {
		return nil
	}
	return eif.CheckValidity(certificate, s.At)
}

// Append writes the signature of an image with pcr0 as the next section, and returns PCR8.
func (s *Signer) Append(out *eif.Writer, pcr0 eif.PCR) (*eif.PCR, error) {
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
	pcr8, err := eif.Signed{Certificate: s.Certificate}.PCR8()
	return &pcr8, err
}

// EIF writes a copy of a file, signed by s instead of any earlier signature, to w, which must be empty. It
// rejects a file with a wrong checksum, and one of a PCIe enclave, whose PCR0 is not known.
func EIF(ctx context.Context, w io.WriteSeeker, f *eif.File, s *Signer) (m eif.Measurements, err error) {
	if err := s.Check(); err != nil {
		return m, err
	}
	if f.PCIe() {
		return m, errors.New("the file is of a PCIe enclave: " +
			"its PCR0 includes the header's flags by a rule that is not public, and a signature covers PCR0")
	}
	pass, err := f.Measure(ctx)
	if pass == nil {
		return m, err
	}
	// An unreadable signature is not an error here: it is replaced.
	if err := f.CheckCRC(pass); err != nil {
		return m, err
	}
	out, err := eif.NewWriter(w, f.Arch())
	if err != nil {
		return m, err
	}
	defer out.Abort()
	if err := out.Copy(ctx, f, eif.Signature); err != nil {
		return m, err
	}
	if m, err = out.Measurements(); err != nil {
		return m, err
	}
	if m.PCR0 != pass.PCR0 {
		return m, errors.New("the file changed while neb signed it")
	}
	if m.PCR8, err = s.Append(out, m.PCR0); err != nil {
		return m, err
	}
	return m, out.Close()
}
