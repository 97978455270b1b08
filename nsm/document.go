package nsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Limits of attestation documents, in bytes unless said otherwise.
const (
	maxPayload     = 16384 // the part of a document that is signed
	maxDocument    = maxPayload + 1024
	maxCertificate = 1024
	maxPublicKey   = 1024
	maxUserData    = 1024 // as the specification's section 2.2 has it, and real documents; 3.2.2.2 says 512
	maxNonce       = 1024 // likewise
	maxPCRs        = 32   // registers; their indexes are below this number
	maxBundle      = 16   // certificates; AWS sends four
	pcrSize        = 48   // of a SHA-384 register
)

// Document is an attestation document. It is what the enclave's hypervisor claims; believe it after
// [Document.Verify].
type Document struct {
	ModuleID    string         // of the security module: the instance and the enclave
	Time        time.Time      // when the document was made, by the hypervisor's clock
	PCRs        map[int][]byte // the locked registers, by index; each has 48 bytes
	Certificate []byte         // DER of the certificate whose key signed the document
	CABundle    [][]byte       // DER of the chain: the root first, the issuer of Certificate last
	PublicKey   []byte         // what the enclave put in, as UserData and Nonce; nil where it put in nothing
	UserData    []byte
	Nonce       []byte

	message cose.UntaggedSign1Message
}

// decoder reads CBOR in which each key stands once, all keys are known, and nothing follows. Real documents
// have maps of indefinite length, so these are read.
var decoder = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxMapPairs:       64,
		MaxArrayElements:  64,
		MaxNestedLevels:   4,
		TagsMd:            cbor.TagsForbidden,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// Parse reads an attestation document, with or without the COSE tag, and rejects an invalid form. It does
// not check the signature.
func Parse(document []byte) (*Document, error) {
	if len(document) > maxDocument {
		return nil, fmt.Errorf("the attestation document has %d bytes: expected at most %d",
			len(document), maxDocument)
	}
	d := &Document{}
	const tag18 = 0xd2
	if err := d.message.UnmarshalCBOR(bytes.TrimPrefix(document, []byte{tag18})); err != nil {
		return nil, fmt.Errorf("the attestation document is not a COSE_Sign1 object: %w", err)
	}
	headers := d.message.Headers
	alg, err := headers.Protected.Algorithm()
	if err != nil {
		return nil, fmt.Errorf("the attestation document's protected header: %w", err)
	}
	if n := len(headers.Protected) + len(headers.Unprotected); n != 1 {
		return nil, fmt.Errorf("the attestation document has %d header fields: expected only the algorithm",
			n)
	}
	if alg != cose.AlgorithmES384 { // QEMU's own module writes -1, and zeros for a signature
		return nil, fmt.Errorf("the attestation document's algorithm is %v: expected ES384", alg)
	}
	if n := len(d.message.Signature); n != 96 { // RFC 9053, 2.1: r and s, of 48 bytes each
		return nil, fmt.Errorf("the attestation document's signature has %d bytes: expected 96", n)
	}
	if n := len(d.message.Payload); n == 0 || n > maxPayload {
		return nil, fmt.Errorf("the attestation document's payload has %d bytes: expected 1 to %d", n,
			maxPayload)
	}

	var p struct {
		ModuleID    any `cbor:"module_id"`
		Timestamp   any `cbor:"timestamp"`
		Digest      any `cbor:"digest"`
		PCRs        any `cbor:"pcrs"`
		Certificate any `cbor:"certificate"`
		CABundle    any `cbor:"cabundle"`
		PublicKey   any `cbor:"public_key"`
		UserData    any `cbor:"user_data"`
		Nonce       any `cbor:"nonce"`
	}
	if err := decoder.Unmarshal(d.message.Payload, &p); err != nil {
		return nil, fmt.Errorf("the attestation document's payload: %w", err)
	}
	check := fields{}
	d.ModuleID = check.text("module_id", p.ModuleID)
	d.Time = check.milliseconds("timestamp", p.Timestamp)
	if digest := check.text("digest", p.Digest); check.err == nil && digest != "SHA384" {
		check.wrong("digest", "is %q: expected SHA384", digest)
	}
	d.PCRs = check.registers("pcrs", p.PCRs)
	d.Certificate = check.octets("certificate", p.Certificate, 1, maxCertificate)
	d.CABundle = check.bundle("cabundle", p.CABundle)
	d.PublicKey = check.optional("public_key", p.PublicKey, 1, maxPublicKey)
	d.UserData = check.optional("user_data", p.UserData, 0, maxUserData)
	d.Nonce = check.optional("nonce", p.Nonce, 0, maxNonce)
	if check.err != nil {
		return nil, check.err
	}
	return d, nil
}

// fields checks the fields of a payload, and keeps the first error.
type fields struct{ err error }

func (f *fields) wrong(name, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("the attestation document's field %s %s", name, fmt.Sprintf(format, args...))
	}
}

func (f *fields) text(name string, value any) string {
	s, ok := value.(string)
	if !ok || s == "" {
		f.wrong(name, "is %s: expected a text that is not empty", describe(value))
	}
	return s
}

func (f *fields) milliseconds(name string, value any) time.Time {
	n, ok := value.(uint64)
	if !ok || n == 0 || n > math.MaxInt64/1_000_000 {
		f.wrong(name, "is %s: expected a positive number of milliseconds since 1970", describe(value))
		return time.Time{}
	}
	return time.UnixMilli(int64(n)).UTC()
}

func (f *fields) octets(name string, value any, least, most int) []byte {
	b, ok := value.([]byte)
	if !ok || len(b) < least || len(b) > most {
		f.wrong(name, "is %s: expected a byte string of %d to %d bytes", describe(value), least, most)
	}
	return b
}

func (f *fields) optional(name string, value any, least, most int) []byte {
	if value == nil {
		return nil
	}
	return f.octets(name, value, least, most)
}

func (f *fields) bundle(name string, value any) [][]byte {
	list, ok := value.([]any)
	if !ok || len(list) == 0 || len(list) > maxBundle {
		f.wrong(name, "is %s: expected a list of 1 to %d certificates", describe(value), maxBundle)
		return nil
	}
	var bundle [][]byte
	for i, entry := range list {
		bundle = append(bundle, f.octets(fmt.Sprintf("%s[%d]", name, i), entry, 1, maxCertificate))
	}
	return bundle
}

func (f *fields) registers(name string, value any) map[int][]byte {
	all, ok := value.(map[any]any)
	if !ok || len(all) == 0 || len(all) > maxPCRs {
		f.wrong(name, "is %s: expected a map of 1 to %d registers", describe(value), maxPCRs)
		return nil
	}
	pcrs := map[int][]byte{}
	for key, value := range all {
		index, ok := key.(uint64)
		if !ok || index >= maxPCRs {
			f.wrong(name, "has the key %v: expected a register's index from 0 to %d", key, maxPCRs-1)
			return nil
		}
		pcrs[int(index)] = f.octets(fmt.Sprintf("%s[%d]", name, index), value, pcrSize, pcrSize)
	}
	return pcrs
}

// describe describes the value of a field in a few words.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "missing or null"
	case string:
		return fmt.Sprintf("the text %.40q", v)
	case []byte:
		return fmt.Sprintf("a byte string of %d bytes", len(v))
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case map[any]any:
		return fmt.Sprintf("a map of %d", len(v))
	default:
		return fmt.Sprintf("%.40v", v)
	}
}

//go:embed aws-root-g1.pem
var awsRoot []byte

// AWSRootSHA256 is the SHA-256 of the DER of [AWSRoot], as the AWS documentation gives it ("Verifying the
// root of trust" in the AWS Nitro Enclaves User Guide).
const AWSRootSHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// AWSRoot is the root certificate of the attestation of all commercial AWS regions, "aws.nitro-enclaves",
// generation 1, valid until 2049. The AWS regions of other partitions have roots of their own.
func AWSRoot() *x509.Certificate {
	block, _ := pem.Decode(awsRoot)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(err)
	}
	return root
}

// Verify checks that the document was signed by a key that root vouches for, at the given time: the chain
// starts with root itself, byte for byte, every certificate is valid and allowed to do what it does, and the
// signature is that of the last one's key. The time must come from the caller's own clock, not from the
// document.
func (d *Document) Verify(root *x509.Certificate, at time.Time) error {
	if !bytes.Equal(d.CABundle[0], root.Raw) {
		return fmt.Errorf(
			"the attestation document's chain does not start with the trusted root (subject %q)",
			root.Subject)
	}
	chain := make([]*x509.Certificate, 0, len(d.CABundle)+1)
	for i, der := range append(slices.Clone(d.CABundle), d.Certificate) {
		name := fmt.Sprintf("cabundle[%d]", i)
		if i == len(d.CABundle) {
			name = "certificate"
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("the attestation document's %s: %w", name, err)
		}
		if err := constraints(certificate, i == len(d.CABundle)); err != nil {
			return fmt.Errorf("the attestation document's %s (subject %q): %w", name, certificate.Subject,
				err)
		}
		if at.Before(certificate.NotBefore) || at.After(certificate.NotAfter) {
			return fmt.Errorf("the attestation document's %s (subject %q) is valid from %s to %s: the time "+
				"is %s",
				name, certificate.Subject, certificate.NotBefore.Format(time.RFC3339),
				certificate.NotAfter.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
		chain = append(chain, certificate)
	}

	// Package x509 checks signatures, names, path lengths and critical extensions; the chain that it finds
	// must be the one that the document has.
	target := chain[len(chain)-1]
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	options.Roots.AddCert(root)
	for _, c := range chain[1 : len(chain)-1] {
		options.Intermediates.AddCert(c)
	}
	found, err := target.Verify(options)
	if err != nil {
		return fmt.Errorf("the attestation document's chain of certificates: %w", err)
	}
	ordered := slices.Clone(chain)
	slices.Reverse(ordered)
	if !slices.ContainsFunc(found, func(c []*x509.Certificate) bool {
		return slices.EqualFunc(c, ordered, (*x509.Certificate).Equal)
	}) {
		return errors.New("the attestation document's certificates are not in the order of their chain")
	}

	// The module signs with a certificate that is valid then. A time that is not from a clock (in seconds, or
	// years ahead) would make an old document look fresh.
	switch {
	case d.Time.Before(target.NotBefore) || d.Time.After(target.NotAfter):
		return fmt.Errorf("the attestation document is of %s: its certificate is valid from %s to %s",
			d.Time.Format(time.RFC3339), target.NotBefore.Format(time.RFC3339),
			target.NotAfter.Format(time.RFC3339))
	case d.Time.After(at.Add(maxSkew)):
		return fmt.Errorf("the attestation document is of %s, in the future: the time is %s",
			d.Time.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}

	key := target.PublicKey.(*ecdsa.PublicKey) // see constraints
	verifier, err := cose.NewVerifier(cose.AlgorithmES384, key)
	if err != nil {
		return err
	}
	if err := d.message.Verify(nil, verifier); err != nil {
		return fmt.Errorf("the attestation document's signature is not by the key of its certificate: %w",
			err)
	}
	return nil
}

// maxSkew is how far the module's clock may be ahead of the verifier's.
const maxSkew = 5 * time.Minute

// constraints checks what a certificate may be used for: to sign certificates or, for the target, documents.
func constraints(c *x509.Certificate, target bool) error {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P384():
		return fmt.Errorf("found an %v key, expected ECDSA on P-384", c.PublicKeyAlgorithm)
	case target && !c.BasicConstraintsValid:
		return errors.New("no basic constraints, which exclude an authority")
	case target && slices.ContainsFunc(c.Extensions, criticalKeyUsage):
		return errors.New("a critical extended key usage excludes signing documents")
	case target && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the key usage does not allow signatures")
	case target && c.IsCA:
		return errors.New("found a certificate of an authority, expected that of a module")
	case !target && (!c.BasicConstraintsValid || !c.IsCA):
		return errors.New("not a certificate of an authority")
	case !target && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("the key usage does not allow signing certificates")
	}
	return nil
}

// criticalKeyUsage reports whether an extension is a critical extended key usage (RFC 5280, 4.2.1.12). The
// RFC has no usage for attestation documents, and AWS's certificates have none.
func criticalKeyUsage(e pkix.Extension) bool {
	return e.Critical && e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 37})
}

// Expectation has the expected values of a document. A nil field is not compared.
type Expectation struct {
	PCRs      map[int][]byte
	Nonce     []byte
	UserData  []byte
	PublicKey []byte
}

// Compare lists how the document differs from what is expected: registers by index, then the other fields.
func (d *Document) Compare(want Expectation) []error {
	var differences []error
	differ := func(format string, args ...any) {
		differences = append(differences, fmt.Errorf(format, args...))
	}
	for _, index := range slices.Sorted(maps.Keys(want.PCRs)) {
		expected := want.PCRs[index]
		if got, ok := d.PCRs[index]; !ok {
			differ("PCR%d: expected %x, the document does not have it", index, expected)
		} else if !bytes.Equal(got, expected) {
			differ("PCR%d: expected %x, found %x", index, expected, got)
		}
	}
	for _, field := range []struct {
		name      string
		got, want []byte
	}{
		{"nonce", d.Nonce, want.Nonce},
		{"user data", d.UserData, want.UserData},
		{"public key", d.PublicKey, want.PublicKey},
	} {
		switch {
		case field.want == nil:
		case field.got == nil:
			differ("%s: expected %x, found none", field.name, field.want)
		case !bytes.Equal(field.got, field.want):
			differ("%s: expected %x, found %x", field.name, field.want, field.got)
		}
	}
	return differences
}

// Debug reports whether PCR0 is all zero or missing: the enclave runs in debug mode, where the parent can
// read its console, and its registers do not identify it.
func (d *Document) Debug() bool { return len(bytes.Trim(d.PCRs[0], "\x00")) == 0 }
