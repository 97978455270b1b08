package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// ParseKey reads a private key from PEM text: PKCS #8 or the older form of EC keys. Other text and blocks
// such as EC PARAMETERS, which openssl writes, are passed over. The key must be on P-256, P-384 or P-521;
// whether it is, the signing says.
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("there is no private key in it: expected a PEM block PRIVATE KEY or EC PRIVATE KEY")
		}
		if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
			return nil, errors.New("the private key is encrypted: decrypt it first (openssl pkey -in FILE -out PLAIN)")
		}
		switch block.Type {
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			if ec, ok := key.(*ecdsa.PrivateKey); ok {
				return ec, nil
			}
			return nil, fmt.Errorf("the private key is of the type %T: an EIF is signed with ECDSA on P-256, P-384 or P-521", key)
		case "RSA PRIVATE KEY":
			return nil, errors.New("the private key is an RSA key: an EIF is signed with ECDSA on P-256, P-384 or P-521")
		}
	}
}

// Signer is what signs an EIF: a key and the PEM text of its certificate.
type Signer struct {
	Key         crypto.Signer
	Certificate []byte
	At          time.Time // when the certificate must be valid; the zero time leaves that unchecked
}

// Check rejects a certificate that is not valid, before a whole file is written in vain.
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

// maxFile is the largest key or certificate file, in bytes.
const maxFile = 1 << 20

// Load reads a private key and a certificate from PEM files.
func Load(keyFile, certificateFile string) (*Signer, error) {
	text, err := stream.ReadFile(keyFile, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the private key: %w", err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("the private key %s: %w", keyFile, err)
	}
	certificate, err := LoadCertificate(certificateFile)
	if err != nil {
		return nil, err
	}
	return &Signer{Key: key, Certificate: certificate}, nil
}

// LoadCertificate reads the PEM text of a signing certificate from a file, and checks that there is a
// certificate in it.
func LoadCertificate(path string) ([]byte, error) {
	text, err := stream.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the signing certificate: %w", err)
	}
	if _, err := eif.ParseCertificate(text); err != nil {
		return nil, fmt.Errorf("the signing certificate %s: %w", path, err)
	}
	return text, nil
}
