package sign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func TestReadKeys(t *testing.T) {
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	path := filepath.Join(t.TempDir(), "key.pem")
	write := func(before, kind string, der []byte, err error) {
		t.Helper()
		text := append([]byte(before), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
		if err != nil || os.WriteFile(path, text, 0o644) != nil {
			t.Fatal(err)
		}
	}
	pkix, err := x509.MarshalPKIXPublicKey(ed.Public())
	write("", "PUBLIC KEY", pkix, err)
	if _, err := sign.ReadPublicKey(path); err != nil {
		t.Error(err)
	}
	if der, err := sign.ReadDER(path); err != nil || !bytes.Equal(der, pkix) {
		t.Errorf("DER of a public key: %x (%v)", der, err)
	}
	if _, err := sign.ReadPrivateKey(path); err == nil ||
		!strings.Contains(err.Error(), "expected a private key") {
		t.Errorf("a public key to sign with: %v", err)
	}
	if _, err := sign.ReadCertificate(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a public key as a certificate: %v", err)
	}

	sec1, err := x509.MarshalECPrivateKey(ec)
	// As openssl ecparam writes it.
	parameters := &pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}}
	write(string(pem.EncodeToMemory(parameters)), "EC PRIVATE KEY", sec1, err)
	if _, err := sign.ReadPrivateKey(path); err != nil {
		t.Errorf("SEC 1: %v", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ed)
	write("", "PRIVATE KEY", pkcs8, err)
	if _, err := sign.ReadPrivateKey(path); err != nil {
		t.Errorf("PKCS #8: %v", err)
	}
	if _, err := sign.ReadPublicKey(path); err == nil ||
		!strings.Contains(err.Error(), "expected a public key") {
		t.Errorf("a private key to verify with: %v", err)
	}
	if _, err := sign.ReadDER(path); err == nil || !strings.Contains(err.Error(), "found PRIVATE KEY") {
		t.Errorf("DER of a private key: %v", err)
	}
}
