package sign_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newSigner(t testing.TB, name string) *sign.Signer {
	t.Helper()
	key, certificate := enclaves.Certificate(t, name, noon)
	return &sign.Signer{Key: key, Certificate: certificate}
}

// someEIF writes a file that can be signed.
func someEIF(t testing.TB) (*os.File, int64) {
	t.Helper()
	metadata, err := eif.Metadata{}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return enclaves.Write(t, []enclaves.Section{
		{Type: eif.Kernel, Content: enclaves.BzImage("6.12.117")},
		{Type: eif.Cmdline, Content: []byte("console=ttyS0")},
		{Type: eif.Meta, Content: metadata},
		{Type: eif.Ramdisk, Content: enclaves.CPIO(enclaves.File("init", "pid 1"))},
	})
}

func TestReadPrivateKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	parameters := block("EC PARAMETERS", []byte{6, 5, 43, 129, 4, 0, 35})
	for name, text := range map[string]string{
		"PKCS #8":              block("PRIVATE KEY", pkcs8),
		"SEC 1":                block("EC PRIVATE KEY", sec1),
		"parameters before it": parameters + block("EC PRIVATE KEY", sec1),
		"text before it":       "Bag Attributes\n    friendlyName: x\n" + block("PRIVATE KEY", pkcs8),
	} {
		got, err := sign.ReadPrivateKey(file(text))
		if err != nil || !key.Equal(got) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":       {"", "expected a key in PEM, found none"},
		"parameters":    {parameters, "expected a key in PEM, found none"},
		"rubbish":       {block("PRIVATE KEY", []byte("x")), "asn1"},
		"encrypted":     {block("ENCRYPTED PRIVATE KEY", pkcs8), "encrypted"},
		"another block": {block("PUBLIC KEY", pkcs8), `found a block "PUBLIC KEY"`},
		"old encrypted": {"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: " +
			"AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n", "encrypted"},
	} {
		if _, err := sign.ReadPrivateKey(file(test.text)); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
	}
}

func TestSignRefusesDamaged(t *testing.T) {
	in, size := someEIF(t)
	if _, err := in.WriteAt([]byte{1}, size-1); err != nil {
		t.Fatal(err)
	}
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.EIF(t.Context(), enclaves.TempFile(t), f, newSigner(t, "alice")); err == nil ||
		!strings.Contains(err.Error(), "checksum") {
		t.Errorf("a damaged file is signed: %v", err)
	}
}

// TestSignExpired signs with a certificate outside its validity: nothing is written.
func TestSignExpired(t *testing.T) {
	in, size := someEIF(t)
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	s := newSigner(t, "alice") // valid for an hour around noon
	for at, fine := range map[time.Time]bool{noon: true, noon.Add(2 * time.Hour): false,
		noon.Add(-2 * time.Hour): false, {}: true} {
		s.At = at
		out := enclaves.TempFile(t)
		_, err := sign.EIF(t.Context(), out, f, s)
		info, statErr := out.Stat()
		if statErr != nil {
			t.Fatal(statErr)
		}
		if (err == nil) != fine || !fine && (!strings.Contains(err.Error(), "is valid from") ||
			info.Size() > 0) {
			t.Errorf("at %v: %v, %d bytes written", at, err, info.Size())
		}
	}
}
