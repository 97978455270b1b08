package eif_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// selfSigned is a certificate, as PEM, of a key.
func selfSigned(t *testing.T, key crypto.Signer, from, to time.Time) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{CommonName: "signer"},
		NotBefore:    from,
		NotAfter:     to,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var (
	now       = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	yesterday = now.Add(-24 * time.Hour)
	tomorrow  = now.Add(24 * time.Hour)
)

// The CBOR of the specification, written by hand.

func cborHead(major byte, n int) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 256:
		return []byte{major<<5 | 24, byte(n)}
	default:
		return []byte{major<<5 | 25, byte(n >> 8), byte(n)}
	}
}

func cborText(s string) []byte { return append(cborHead(3, len(s)), s...) }

func cborBytes(b []byte) []byte { return append(cborHead(2, len(b)), b...) }

// cborIntegers are bytes as an array of integers, each in its shortest form.
func cborIntegers(b []byte) []byte {
	out := cborHead(4, len(b))
	for _, v := range b {
		out = append(out, cborHead(0, int(v))...)
	}
	return out
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// protectedHeader is {1: alg} for ES256, ES384 and ES512.
var protectedHeader = map[elliptic.Curve][]byte{
	elliptic.P256(): {0xa1, 0x01, 0x26},
	elliptic.P384(): {0xa1, 0x01, 0x38, 0x22},
	elliptic.P521(): {0xa1, 0x01, 0x38, 0x23},
}

var curveHash = map[elliptic.Curve]crypto.Hash{
	elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512,
}

// entry is what a test signature says, and how it lies.
type entry struct {
	certificate []byte
	key         *ecdsa.PrivateKey
	index       int
	value       []byte
	payload     []byte // nil: index and value in the shortest form
	protected   []byte // nil: as the key's curve wants it
	unprotected []byte // nil: an empty map
}

func (e entry) cose(t *testing.T) []byte {
	t.Helper()
	protected := e.protected
	if protected == nil {
		protected = protectedHeader[e.key.Curve]
	}
	unprotected := e.unprotected
	if unprotected == nil {
		unprotected = []byte{0xa0}
	}
	payload := join([]byte{0xa2}, cborText("register_index"), cborHead(0, e.index),
		cborText("register_value"), cborIntegers(e.value))
	if e.payload != nil {
		payload = e.payload
	}
	h := curveHash[e.key.Curve].New()
	h.Write(join([]byte{0x84}, cborText("Signature1"), cborBytes(protected), cborBytes(nil),
		cborBytes(payload)))
	r, s, err := ecdsa.Sign(rand.Reader, e.key, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	size := (e.key.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	return join([]byte{0x84}, cborBytes(protected), unprotected, cborBytes(payload), cborBytes(signature))
}

func (e entry) section(t *testing.T) []byte {
	t.Helper()
	return join([]byte{0x81, 0xa2}, cborText("signing_certificate"), cborIntegers(e.certificate),
		cborText("signature"), cborIntegers(e.cose(t)))
}

var somePCR = eif.PCR(noise(42, 48))

// TestSignGolden compares everything but the signature itself with what the specification says, byte for
// byte.
func TestSignGolden(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		t.Run(curve.Params().Name, func(t *testing.T) {
			key := newKey(t, curve)
			certificate := selfSigned(t, key, yesterday, tomorrow)
			section, err := eif.Sign(key, certificate, somePCR, now)
			if err != nil {
				t.Fatal(err)
			}
			payload := join([]byte{0xa2}, cborText("register_index"), []byte{0}, cborText("register_value"),
				cborIntegers(somePCR[:]))
			size := (curve.Params().BitSize + 7) / 8
			before := join([]byte{0x84}, cborBytes(protectedHeader[curve]), []byte{0xa0}, cborBytes(payload),
				cborHead(2, 2*size))

			start := join([]byte{0x81, 0xa2}, cborText("signing_certificate"), cborIntegers(certificate),
				cborText("signature"), cborHead(4, len(before)+2*size))
			rest, ok := bytes.CutPrefix(section, start)
			if !ok {
				t.Fatalf("the section begins\n%x, want\n%x", section[:len(start)], start)
			}
			var object []byte // the array of integers, back as bytes
			for len(rest) > 0 {
				if rest[0] < 24 {
					object, rest = append(object, rest[0]), rest[1:]
				} else if rest[0] == 0x18 && len(rest) > 1 && rest[1] >= 24 {
					object, rest = append(object, rest[1]), rest[2:]
				} else {
					t.Fatalf("an element that is no small integer in its shortest form: %x", rest[:1])
				}
			}
			if !bytes.HasPrefix(object, before) || len(object) != len(before)+2*size {
				t.Fatalf("the COSE object is\n%x, want\n%x and %d bytes", object, before, 2*size)
			}
			h := curveHash[curve].New()
			h.Write(join([]byte{0x84}, cborText("Signature1"), cborBytes(protectedHeader[curve]),
				cborBytes(nil), cborBytes(payload)))
			r := new(big.Int).SetBytes(object[len(before):][:size])
			s := new(big.Int).SetBytes(object[len(before)+size:])
			if !ecdsa.Verify(&key.PublicKey, h.Sum(nil), r, s) {
				t.Error("the signature is wrong")
			}

			again, err := eif.Sign(key, certificate, somePCR, now)
			if err != nil || !bytes.Equal(section, again) {
				t.Errorf("signing again gives other bytes (%v)", err)
			}
		})
	}
}

// TestSignRFC6979 signs with the key of RFC 6979, A.2.5, whose nonces are known: the signature is then
// determined.
func TestSignRFC6979(t *testing.T) {
	d, _ := hex.DecodeString("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		t.Fatal(err)
	}
	digest := crypto.SHA256.New()
	digest.Write([]byte("sample"))
	der, err := key.Sign(nil, digest.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	// r of A.2.5 for SHA-256 and "sample".
	if !strings.Contains(strings.ToUpper(hex.EncodeToString(der)),
		"EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716") {
		t.Errorf("a key without randomness signs %x: not as RFC 6979", der)
	}
}

func TestVerify(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key := newKey(t, curve)
		certificate := selfSigned(t, key, yesterday, tomorrow)
		entries, err := eif.ParseSignature(entry{certificate: certificate, key: key,
			value: somePCR[:]}.section(t))
		if err != nil {
			t.Fatal(err)
		}
		got, err := entries[0].Verify(somePCR, now)
		if err != nil {
			t.Fatal(err)
		}
		pcr8, err := entries[0].PCR8()
		if err != nil || pcr8 != eif.PCR8(got) || pcr8.String() != pcr(got.Raw) {
			t.Errorf("PCR8 %v (%v)", pcr8, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t, elliptic.P384()), newKey(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := selfSigned(t, key, yesterday, tomorrow)
	value := somePCR[:]
	for _, test := range []struct {
		name  string
		entry entry
		want  string
	}{
		{"an expired certificate", entry{certificate: selfSigned(t, key, yesterday, yesterday.Add(time.Hour)),
			key: key, value: value}, "valid from"},
		{"a certificate of the future", entry{certificate: selfSigned(t, key, tomorrow,
			tomorrow.Add(time.Hour)), key: key, value: value}, "valid from"},
		{"a certificate of another key", entry{certificate: selfSigned(t, other, yesterday, tomorrow),
			key: key, value: value}, "not by the key"},
		{"a certificate of an RSA key", entry{certificate: selfSigned(t, rsaKey, yesterday, tomorrow),
			key: key, value: value}, "RSA"},
		{"a certificate on P-224", entry{certificate: selfSigned(t, newKey(t, elliptic.P224()), yesterday,
			tomorrow), key: key, value: value}, "P-224"},
		{"no certificate", entry{certificate: []byte("hello"), key: key, value: value},
			"expected a PEM block"},
		{"another register", entry{certificate: good, key: key, value: value, index: 8},
			"signature is of PCR8"},
		{"another value", entry{certificate: good, key: key, value: noise(1, 48)}, "another image"},
		{"a short value", entry{certificate: good, key: key, value: value[:47]}, "another image"},
		{"another algorithm", entry{certificate: good, key: key, value: value, protected: []byte{0xa1, 0x01,
			0x26}}, "algorithm"},
		{"a payload in another order", entry{certificate: good, key: key, payload: join([]byte{0xa2},
			cborText("register_value"), cborIntegers(value), cborText("register_index"), []byte{0})},
			"shortest form"},
		{"a payload with a long number", entry{certificate: good, key: key, payload: join([]byte{0xa2},
			cborText("register_index"), []byte{0x18, 0}, cborText("register_value"), cborIntegers(value))},
			"shortest form"},
		{"a tagged payload", entry{certificate: good, key: key, payload: join([]byte{0xd8, 0x2a, 0xa2},
			cborText("register_index"), []byte{0}, cborText("register_value"), cborIntegers(value))},
			"not valid CBOR"},
		{"no algorithm", entry{certificate: good, key: key, value: value, protected: []byte{0xa0}},
			"protected header"},
		{"an unprotected header", entry{certificate: good, key: key, value: value,
			unprotected: []byte{0xa1, 0x04, 0x41, 0x31}}, "header fields"},
	} {
		t.Run(test.name, func(t *testing.T) {
			entries, err := eif.ParseSignature(test.entry.section(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := entries[0].Verify(somePCR, now); err == nil ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestParseSignatureRefuses(t *testing.T) {
	key := newKey(t, elliptic.P256())
	good := entry{certificate: selfSigned(t, key, yesterday, tomorrow), key: key, value: somePCR[:]}
	section := good.section(t)
	pair := func(a, b []byte) []byte {
		return join([]byte{0x81, 0xa2}, cborText("signing_certificate"), a, cborText("signature"), b)
	}
	for name, section := range map[string][]byte{
		"nothing":                {},
		"text":                   []byte("hello, this is no CBOR"),
		"no entries":             {0x80},
		"a certificate of bytes": pair(cborBytes(good.certificate), cborIntegers(good.cose(t))),
		"a signature of bytes":   pair(cborIntegers(good.certificate), cborBytes(good.cose(t))),
		"an element over 255":    pair(append(cborHead(4, 1), 0x19, 1, 0), cborIntegers(nil)),
		"a negative element":     pair(append(cborHead(4, 1), 0x20), cborIntegers(nil)),
		"a key twice": join([]byte{0x81, 0xa3}, section[2:], cborText("signature"),
			cborIntegers(nil)),
		"an unknown key": join([]byte{0x81, 0xa3}, section[2:], cborText("note"),
			cborIntegers(nil)),
		"a key in capitals":        bytes.Replace(section, []byte("signing_"), []byte("Signing_"), 1),
		"a tag":                    join([]byte{0xd8, 0x2a}, section),
		"trailing bytes":           append(bytes.Clone(section), 0),
		"cut":                      section[:len(section)-1],
		"more than 32,768 bytes":   pair(cborIntegers(make([]byte, 32768)), cborIntegers(nil)),
		"an array of huge length":  {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"nested a thousand levels": bytes.Repeat([]byte{0x81}, 1000),
	} {
		if _, err := eif.ParseSignature(section); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// stranger signs as no key of its curve would.
type stranger struct {
	*ecdsa.PrivateKey
	answer []byte
}

func (s stranger) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return s.answer, nil }

func TestSignRefuses(t *testing.T) {
	key, other := newKey(t, elliptic.P384()), newKey(t, elliptic.P384())
	small := newKey(t, elliptic.P224())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := selfSigned(t, key, yesterday, tomorrow)
	foreign, err := newKey(t, elliptic.P521()).Sign(nil, make([]byte, 64), crypto.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name        string
		key         crypto.Signer
		certificate []byte
		want        string
	}{
		{"a certificate of another key", other, good, "not for the private key"},
		{"an RSA key", rsaKey, selfSigned(t, rsaKey, yesterday, tomorrow), "ECDSA"},
		{"P-224", small, selfSigned(t, small, yesterday, tomorrow), "P-224"},
		{"no certificate", key, []byte("x"), "expected a PEM block"},
		{"an expired certificate", key, selfSigned(t, key, yesterday, now.Add(-time.Second)),
			"is valid from"},
		{"a certificate of tomorrow", key, selfSigned(t, key, now.Add(time.Second), tomorrow),
			"is valid from"},
		{"a certificate file that is too large", key,
			append(bytes.Clone(good), bytes.Repeat([]byte("\xff"), 16000)...), "32768"},
		{"a signer that returns rubbish", stranger{key, []byte("rubbish")}, good, "ASN.1"},
		{"a signer of another curve", stranger{key, foreign}, good, "another curve"},
	} {
		if _, err := eif.Sign(test.key, test.certificate, somePCR, now); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
	if _, err := eif.Sign(key, selfSigned(t, key, yesterday, yesterday), somePCR, time.Time{}); err != nil {
		t.Errorf("an expired certificate, unchecked: %v", err)
	}
}

func TestParseCertificatePassesOver(t *testing.T) {
	key := newKey(t, elliptic.P256())
	certificate := selfSigned(t, key, yesterday, tomorrow)
	text := join([]byte("subject=CN = signer\n"),
		[]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), certificate)
	if _, err := eif.ParseCertificate(text); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"TRUSTED CERTIFICATE", "X509 CERTIFICATE"} { // OpenSSL takes the first
		first := bytes.ReplaceAll(certificate, []byte(" CERTIFICATE"), []byte(" "+name))
		if _, err := eif.ParseCertificate(join(first, certificate)); err == nil ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestParseCertificateRefuses has text in which OpenSSL, GnuTLS and Go find different certificates.
func TestParseCertificateRefuses(t *testing.T) {
	certificate := selfSigned(t, newKey(t, elliptic.P256()), yesterday, tomorrow)
	other := selfSigned(t, newKey(t, elliptic.P256()), yesterday, tomorrow)
	for name, text := range map[string][]byte{
		"a request before": join(bytes.ReplaceAll(other, []byte("CATE-"), []byte("CATE REQUEST-")),
			certificate),
		"a block that Go skips before": join(bytes.Replace(other, []byte("-----END CERT"),
			[]byte("-----END  CERT"), 1),
			certificate),
		"headers": bytes.Replace(certificate, []byte("-----\n"), []byte("-----\nProc-Type: 4,CLEAR\n\n"), 1),
	} {
		if _, err := eif.ParseCertificate(text); err == nil ||
			!strings.Contains(err.Error(), "other readers") {
			t.Errorf("%s: error %v, want one about other readers", name, err)
		}
	}
	if _, err := eif.ParseCertificate(join(certificate, other)); err != nil {
		t.Errorf("a chain: %v", err)
	}
}

// TestMeasureSigned checks PCR8, and that the other registers of a file do not depend on its signature.
func TestMeasureSigned(t *testing.T) {
	key := newKey(t, elliptic.P384())
	certificate := selfSigned(t, key, yesterday, tomorrow)
	sections := files[1].sections
	value, _ := hex.DecodeString(registers(sections)[0])
	file := reference(0, append(sections[:len(sections):len(sections)],
		plain{4, entry{certificate: certificate, key: key, value: value}.section(t)})...)
	f, err := eif.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	pass, err := f.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certificate)
	if pass.PCR8 == nil || pass.PCR8.String() != pcr(block.Bytes) {
		t.Errorf("PCR8 %v", pass.PCR8)
	}
	if pass.PCR0.String() != registers(sections)[0] || pass.CRC != f.CRC {
		t.Errorf("PCR0 %v, CRC %x of %x", pass.PCR0, pass.CRC, f.CRC)
	}
	signatures, err := f.Signatures()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signatures[0].Verify(pass.PCR0, now); err != nil {
		t.Error(err)
	}
}
