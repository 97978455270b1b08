package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

const (
	freshness  = 5 * time.Minute // how old a document may be, as in AWS KMS
	minModulus = 2048            // bits of the enclave's RSA key
)

// recipient is who may read an answer: an enclave with an attestation document.
type recipient struct {
	KeyEncryptionAlgorithm string
	AttestationDocument    []byte
}

// verify checks the document and returns it with the enclave's key.
func (r *recipient) verify(root *x509.Certificate, now time.Time) (*nsm.Document, *rsa.PublicKey, error) {
	if r.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		return nil, nil, failf(validation,
			"Recipient: the KeyEncryptionAlgorithm is %.40q: expected RSAES_OAEP_SHA_256",
			r.KeyEncryptionAlgorithm)
	}
	d, err := nsm.Parse(r.AttestationDocument)
	if err == nil {
		err = d.Verify(root, now)
	}
	if err != nil {
		return nil, nil, failf(validation, "Recipient: %v", err)
	}
	if age := now.Sub(d.Time); age > freshness {
		return nil, nil, failf(validation,
			"Recipient: the attestation document is %v old: expected at most %v", age.Round(time.Second),
			freshness)
	}
	if d.PublicKey == nil {
		return nil, nil, failf(validation,
			"Recipient: the attestation document has no public_key: expected an RSA key")
	}
	parsed, err := x509.ParsePKIXPublicKey(d.PublicKey)
	key, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok || key.N.BitLen() < minModulus {
		return nil, nil, failf(validation, "Recipient: the attestation document's public_key is invalid: "+
			"expected the SubjectPublicKeyInfo of an RSA key of at least %d bits, in DER", minModulus)
	}
	return d, key, nil
}

var (
	oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidOAEP          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidAES256CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// keyTransRecipientInfo is RFC 5652, section 6.2.1, with a subject key identifier.
type keyTransRecipientInfo struct {
	Version      int
	Identifier   []byte `asn1:"tag:0"`
	Algorithm    pkix.AlgorithmIdentifier
	EncryptedKey []byte
}

// oaepParameters is RFC 4055, section 4.1.
type oaepParameters struct {
	Hash    pkix.AlgorithmIdentifier `asn1:"explicit,tag:0"`
	MaskGen pkix.AlgorithmIdentifier `asn1:"explicit,tag:1"`
}

// chunk is the size of the parts in which long contents are written, in bytes.
const chunk = 1000

// envelop encrypts a text for a key as KMS does: a CMS EnvelopedData in BER, with the sequences that a
// streaming writer opens of indefinite length, and the content in chunks. Clients depend on that: several
// parse nothing else.
func envelop(key *rsa.PublicKey, plaintext []byte) ([]byte, error) {
	contentKey, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	rand.Read(contentKey)
	rand.Read(iv)
	encryptedKey, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	content := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)

	der := func(v any, parameters string) []byte {
		if err != nil {
			return nil
		}
		var b []byte
		b, err = asn1.MarshalWithParams(v, parameters)
		return b
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	identifier := sha256.Sum256(spki) // KMS's has 32 bytes too; how it is made is not documented
	hash := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	mask := pkix.AlgorithmIdentifier{Algorithm: oidMGF1, Parameters: asn1.RawValue{FullBytes: der(hash, "")}}
	oaep := asn1.RawValue{FullBytes: der(oaepParameters{hash, mask}, "")}
	recipients := []keyTransRecipientInfo{{
		2, identifier[:], pkix.AlgorithmIdentifier{Algorithm: oidOAEP, Parameters: oaep}, encryptedKey,
	}}
	var chunks []byte
	for rest := content; len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
		chunks = append(chunks, der(rest[:min(chunk, len(rest))], "")...)
	}
	const sequence, context0 = 0x30, 0xa0
	message := indefinite(sequence, der(oidEnvelopedData, ""), indefinite(context0, indefinite(sequence,
		der(2, ""), der(recipients, "set"), indefinite(sequence,
			der(oidData, ""),
			der(pkix.AlgorithmIdentifier{
				Algorithm: oidAES256CBC, Parameters: asn1.RawValue{FullBytes: der(iv, "")},
			}, ""),
			indefinite(context0, chunks),
		))))
	return message, err
}

// indefinite encodes a constructed value of indefinite length (X.690, 8.1.3.6).
func indefinite(tag byte, parts ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(parts, nil)...), 0, 0)
}
