package eif

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Signed is one entry of a signature section: a certificate and what its key signed. The format allows
// several; the hypervisor looks at the first alone, and so does everything in this package.
type Signed struct {
	Certificate []byte // the signing certificate as PEM text, just as it stands in the file
	COSE        []byte // a COSE_Sign1 object whose payload names a register and its value
}

// signed and register are the CBOR maps of the format. What they hold are arrays of integers, one for each
// byte, and not byte strings: the reference's and QEMU's readers know nothing else. uint16 is what makes the
// CBOR package write them so, in the shortest form, and reject byte strings when it reads.
type (
	signed struct {
		Certificate []uint16 `cbor:"signing_certificate"`
		Signature   []uint16 `cbor:"signature"`
	}
	register struct {
		Index int      `cbor:"register_index"`
		Value []uint16 `cbor:"register_value"`
	}
)

// strict reads CBOR that has each key once, none but the known ones, no tags, and nothing after it. What
// other readers make of the rest is in docs/parsers.md.
var strict = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		TagsMd:            cbor.TagsForbidden,
		MaxArrayElements:  MaxSignature,
		IntDec:            cbor.IntDecConvertNone,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// algorithms are the signatures that an EIF can have, by the curve of the key.
var algorithms = []struct {
	curve elliptic.Curve
	alg   cose.Algorithm
	hash  crypto.Hash
}{
	{elliptic.P256(), cose.AlgorithmES256, crypto.SHA256},
	{elliptic.P384(), cose.AlgorithmES384, crypto.SHA384},
	{elliptic.P521(), cose.AlgorithmES512, crypto.SHA512},
}

// certificateBlock is the start of a block that a reader may take for a certificate: OpenSSL also reads X509
// CERTIFICATE and TRUSTED CERTIFICATE, and versions of GnuTLS match the start of the name.
var certificateBlock = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*CERTIFICATE`)

// ParseCertificate reads the first certificate of some PEM text, as the readers of EIF do. Other text and
// blocks of other kinds before it are ignored. It rejects text whose first certificate depends on the reader:
// nitro-cli's is OpenSSL, QEMU's GnuTLS.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("expected a PEM block CERTIFICATE, found none")
		}
		switch block.Type {
		case "CERTIFICATE":
			before := text[:len(text)-len(rest)]
			if len(block.Headers) > 0 || len(certificateBlock.FindAll(before, 2)) != 1 {
				return nil, errors.New("the PEM block CERTIFICATE has headers, or follows a block " +
					"that other readers take for the certificate: remove them")
			}
			return x509.ParseCertificate(block.Bytes)
		case "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			return nil, fmt.Errorf("expected a PEM block CERTIFICATE, found %s", block.Type)
		}
	}
}

// CheckValidity fails if a signing certificate is not valid at the given time.
func CheckValidity(certificate *x509.Certificate, at time.Time) error {
	if at.Before(certificate.NotBefore) || at.After(certificate.NotAfter) {
		return fmt.Errorf("the signing certificate is valid from %s to %s: the time is %s",
			certificate.NotBefore.UTC().Format(time.RFC3339), certificate.NotAfter.UTC().Format(time.RFC3339),
			at.UTC().Format(time.RFC3339))
	}
	return nil
}

// PCR8 returns the register of the signing certificate.
func PCR8(certificate *x509.Certificate) PCR {
	pcr, err := MeasureContent(bytes.NewReader(certificate.Raw))
	if err != nil {
		panic(err) // reading memory does not fail
	}
	return pcr
}

// PCR8 returns the register of the certificate in the entry.
func (s Signed) PCR8() (PCR, error) {
	certificate, err := ParseCertificate(s.Certificate)
	if err != nil {
		return PCR{}, fmt.Errorf("the certificate in the signature section: %w", err)
	}
	return PCR8(certificate), nil
}

// Sign makes the content of a signature section: the value of PCR0, signed by key. The certificate is PEM
// text and must be that of the key, which is on P-256, P-384 or P-521, and valid at a time: no enclave starts
// from an image whose certificate has expired. The zero time leaves that unchecked.
//
// The same key, certificate and register give the same bytes when key is an [*ecdsa.PrivateKey]: the
// signature then follows RFC 6979. Other implementations of [crypto.Signer], such as a key management
// service, sign as they do.
func Sign(key crypto.Signer, certificate []byte, pcr0 PCR, at time.Time) ([]byte, error) {
	parsed, err := ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("the signing certificate: %w", err)
	}
	if !at.IsZero() {
		if err := CheckValidity(parsed, at); err != nil {
			return nil, err
		}
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key is a %T: expected ECDSA on P-256, P-384 or P-521",
			key.Public())
	}
	if !public.Equal(parsed.PublicKey) {
		return nil, fmt.Errorf("the signing certificate (subject %q) is not for the private key",
			parsed.Subject)
	}
	signer, err := newSigner(key, public)
	if err != nil {
		return nil, err
	}

	payload, err := payloadOf(pcr0)
	if err != nil {
		return nil, err
	}
	message := cose.UntaggedSign1Message{
		Headers: cose.Headers{
			Protected:   cose.ProtectedHeader{cose.HeaderLabelAlgorithm: signer.Algorithm()},
			Unprotected: cose.UnprotectedHeader{},
		},
		Payload: payload,
	}
	if err := message.Sign(nil, nil, signer); err != nil {
		return nil, fmt.Errorf("sign PCR0: %w", err)
	}
	object, err := message.MarshalCBOR()
	if err != nil {
		return nil, err
	}
	section, err := cbor.Marshal([]signed{{Certificate: integers(certificate), Signature: integers(object)}})
	if err != nil {
		return nil, err
	}
	if len(section) > MaxSignature {
		return nil, fmt.Errorf("the signature section would have %d bytes: at most %d are allowed; "+
			"use a certificate file of less than %d bytes, with one certificate",
			len(section), MaxSignature, len(certificate))
	}
	return section, nil
}

// payloadOf returns what a signature of PCR0 signs.
func payloadOf(pcr0 PCR) ([]byte, error) { return cbor.Marshal(register{Value: integers(pcr0[:])}) }

// coseSigner signs as COSE wants it: r and s side by side, each as long as the curve's order.
type coseSigner struct {
	key  crypto.Signer
	alg  cose.Algorithm
	hash crypto.Hash
	size int // of r and of s, in bytes
}

func newSigner(key crypto.Signer, public *ecdsa.PublicKey) (*coseSigner, error) {
	for _, a := range algorithms {
		if a.curve == public.Curve {
			return &coseSigner{key, a.alg, a.hash, (a.curve.Params().BitSize + 7) / 8}, nil
		}
	}
	return nil, fmt.Errorf("the key is on %s: expected P-256, P-384 or P-521", public.Curve.Params().Name)
}

func (s *coseSigner) Algorithm() cose.Algorithm { return s.alg }

func (s *coseSigner) Sign(_ io.Reader, content []byte) ([]byte, error) {
	h := s.hash.New()
	h.Write(content)
	// No randomness: an ecdsa.PrivateKey then signs deterministically.
	der, err := s.key.Sign(nil, h.Sum(nil), s.hash)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("the signer did not return an ASN.1 ECDSA signature: %x", der)
	}
	if rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 8*s.size || rs.S.BitLen() > 8*s.size {
		return nil, errors.New("the signer returned a signature of another curve")
	}
	signature := make([]byte, 2*s.size)
	rs.R.FillBytes(signature[:s.size])
	rs.S.FillBytes(signature[s.size:])
	return signature, nil
}

// ParseSignature reads the content of a signature section. There is at least one entry when it returns no
// error.
func ParseSignature(section []byte) ([]Signed, error) {
	if len(section) > MaxSignature {
		return nil, fmt.Errorf("the signature section has %d bytes: expected at most %d",
			len(section), MaxSignature)
	}
	var entries []signed
	if err := strict.Unmarshal(section, &entries); err != nil {
		return nil, fmt.Errorf("the signature section is not valid CBOR: %w", err)
	}
	if len(entries) == 0 {
		return nil, errors.New("the signature section has no entries")
	}
	all := make([]Signed, len(entries))
	for i, e := range entries {
		var err1, err2 error
		all[i].Certificate, err1 = octets(e.Certificate)
		all[i].COSE, err2 = octets(e.Signature)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("entry %d of the signature section: %w", i, err)
		}
	}
	return all, nil
}

// Signatures reads the signature section. It fails if there is none.
func (f *File) Signatures() ([]Signed, error) {
	section, err := f.small(Signature, MaxSignature)
	if err != nil {
		return nil, err
	}
	return ParseSignature(section)
}

// Verify checks that the entry signs this value of PCR0 with the key of its certificate, and that the
// certificate was valid at a time. It says nothing about who made the certificate: anyone can sign with one
// of his own. Compare PCR8, or the certificate it returns, with what you expect.
func (s Signed) Verify(pcr0 PCR, at time.Time) (*x509.Certificate, error) {
	certificate, err := ParseCertificate(s.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the certificate in the signature section: %w", err)
	}
	public, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return certificate, fmt.Errorf("the certificate in the signature section has an %v key: "+
			"expected ECDSA on P-256, P-384 or P-521", certificate.PublicKeyAlgorithm)
	}
	signer, err := newSigner(nil, public)
	if err != nil {
		return certificate, fmt.Errorf("the certificate in the signature section: %w", err)
	}
	var message cose.UntaggedSign1Message
	if err := message.UnmarshalCBOR(s.COSE); err != nil {
		return certificate, fmt.Errorf("the signature is not a COSE_Sign1 object: %w", err)
	}
	alg, err := message.Headers.Protected.Algorithm()
	if err != nil {
		return certificate, fmt.Errorf("the signature's protected header: %w", err)
	}
	if alg != signer.alg {
		return certificate, fmt.Errorf("the signature's algorithm is %v: expected %v for a key on %s",
			alg, signer.alg, public.Curve.Params().Name)
	}
	if n := len(message.Headers.Protected) + len(message.Headers.Unprotected); n != 1 {
		return certificate, fmt.Errorf("the signature has %d header fields: expected only the algorithm", n)
	}
	verifier, err := cose.NewVerifier(alg, public)
	if err != nil {
		return certificate, err
	}
	if err := message.Verify(nil, verifier); err != nil {
		return certificate, fmt.Errorf("the signature is not by the key of its certificate: %w", err)
	}
	var payload register
	if err := strict.Unmarshal(message.Payload, &payload); err != nil {
		return certificate, fmt.Errorf("the signed payload is not valid CBOR: %w", err)
	}
	value, err := octets(payload.Value)
	if err != nil {
		return certificate, fmt.Errorf("the signed register: %w", err)
	}
	if payload.Index != 0 {
		return certificate, fmt.Errorf("the signature is of PCR%d: expected PCR0", payload.Index)
	}
	if !bytes.Equal(value, pcr0[:]) {
		return certificate, fmt.Errorf("the signature is for another image: it signs PCR0 %x, this image "+
			"has %v",
			value, pcr0)
	}
	// nitro-cli compares bytes: the same register in another encoding is no signature to it.
	if want, err := payloadOf(pcr0); err != nil || !bytes.Equal(message.Payload, want) {
		return certificate, errors.New("the signed payload is not in CBOR's shortest form, " +
			"with the index first")
	}
	return certificate, CheckValidity(certificate, at)
}

// integers returns bytes as the format stores them in CBOR.
func integers(b []byte) []uint16 {
	all := make([]uint16, len(b))
	for i, v := range b {
		all[i] = uint16(v)
	}
	return all
}

// octets returns the integers of a CBOR array as bytes.
func octets(all []uint16) ([]byte, error) {
	b := make([]byte, len(all))
	for i, v := range all {
		if v > 255 {
			return nil, fmt.Errorf("element %d of an array of bytes is %d: expected at most 255", i, v)
		}
		b[i] = byte(v)
	}
	return b, nil
}
