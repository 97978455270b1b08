package sign

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// maxPEM is the largest file with a key or a certificate, in bytes.
const maxPEM = 1 << 20

// ReadPrivateKey reads a private key of any type from a PEM file, in PKCS #8, SEC 1 or PKCS #1.
func ReadPrivateKey(path string) (crypto.Signer, error) {
	block, err := readKeyBlock(path)
	if err != nil {
		return nil, err
	}
	if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, fmt.Errorf("%s: an encrypted private key: decrypt it (openssl pkey -in FILE -out PLAIN)",
			path)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s: expected a private key in PEM, found a block %q", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: expected a key for signatures, found %T", path, key)
	}
	return signer, nil
}

// ReadPublicKey reads a public key of any type from a PEM file, in PKIX.
func ReadPublicKey(path string) (crypto.PublicKey, error) {
	block, err := readKeyBlock(path)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: expected a public key in PEM (PKIX), found a block %q", path, block.Type)
	}
	return key, nil
}

// readKeyBlock returns the first PEM block of a file that is a key. openssl writes text or parameters before
// some keys.
func readKeyBlock(path string) (*pem.Block, error) {
	text, err := stream.ReadFile(path, maxPEM)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, fmt.Errorf("%s: expected a key in PEM, found none", path)
		}
		if strings.HasSuffix(block.Type, "KEY") {
			return block, nil
		}
	}
}

// ReadDER reads a public key or a certificate from a file that holds DER, or one PEM block of it. It returns
// the DER. It rejects a private key, since its callers print what does not match.
func ReadDER(path string) ([]byte, error) {
	text, err := stream.ReadFile(path, maxPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return text, nil
	}
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, fmt.Errorf("%s: expected a public key or certificate, found %s", path, block.Type)
	}
	return block.Bytes, nil
}

// ReadCertificate reads a certificate from a file that holds DER, or one PEM block of it.
func ReadCertificate(path string) (*x509.Certificate, error) {
	der, err := ReadDER(path)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: expected a certificate in PEM or DER: %w", path, err)
	}
	return certificate, nil
}
