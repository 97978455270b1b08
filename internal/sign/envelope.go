package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Envelope is a signed statement (DSSE v1, github.com/secure-systems-lab/dsse).
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"` // base64 in the file
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signature of an [Envelope]. It has no keyid: cosign accepts none but its own form of one.
type Signature struct {
	Sig []byte `json:"sig"` // base64 in the file; ECDSA as ASN.1, Ed25519 as it is
}

// Seal signs a payload and returns its envelope. The key is ECDSA on P-256 (with SHA-256) or P-384 (with
// SHA-384), or Ed25519.
func Seal(payloadType string, payload []byte, key crypto.Signer) (*Envelope, error) {
	if _, err := KeyID(key.Public()); err != nil {
		return nil, err
	}
	message, hash := digest(encoding(payloadType, payload), key.Public())
	// Without a source of randomness ECDSA is deterministic (RFC 6979): the same statement, the same
	// envelope.
	sig, err := key.Sign(nil, message, hash)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", payloadType, err)
	}
	return &Envelope{payloadType, payload, []Signature{{sig}}}, nil
}

// Open checks that an envelope is signed by the key, and returns its payload.
func Open(payloadType string, envelope []byte, key crypto.PublicKey) ([]byte, error) {
	e, err := ParseEnvelope(payloadType, envelope)
	if err != nil {
		return nil, err
	}
	id, err := KeyID(key)
	if err != nil {
		return nil, err
	}
	if !e.SignedBy(key) {
		return nil, fmt.Errorf("envelope: none of its %d signatures is by key %s", len(e.Signatures), id)
	}
	return e.Payload, nil
}

// ParseEnvelope reads an envelope with a payload of the given type. It checks no signature.
func ParseEnvelope(payloadType string, data []byte) (*Envelope, error) {
	e := new(Envelope)
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("not an envelope: %w", err)
	}
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("envelope: expected payload type %s, found %q", payloadType, e.PayloadType)
	}
	return e, nil
}

// SignedBy reports whether one of the signatures is by the key.
func (e *Envelope) SignedBy(key crypto.PublicKey) bool {
	message, _ := digest(encoding(e.PayloadType, e.Payload), key)
	for _, s := range e.Signatures {
		switch key := key.(type) {
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(key, message, s.Sig) {
				return true
			}
		case ed25519.PublicKey:
			if ed25519.Verify(key, message, s.Sig) {
				return true
			}
		}
	}
	return false
}

// encoding is what is signed: DSSE's pre-authentication encoding.
func encoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// digest returns what a key of this kind signs instead of the message, and the hash that made it.
func digest(message []byte, key crypto.PublicKey) ([]byte, crypto.Hash) {
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return message, 0
	}
	if ec.Curve == elliptic.P384() {
		sum := sha512.Sum384(message)
		return sum[:], crypto.SHA384
	}
	sum := sha256.Sum256(message)
	return sum[:], crypto.SHA256
}

// KeyID returns the SHA-256 of a public key as DER (PKIX), in hexadecimal. It fails if the key is not of a
// kind that signs envelopes; see [Seal].
func KeyID(key crypto.PublicKey) (string, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if size := key.Curve.Params().BitSize; size != 256 && size != 384 {
			return "", fmt.Errorf("expected an ECDSA key on P-256 or P-384, found one on %s",
				key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return "", errors.New("expected an ECDSA key on P-256 or P-384, or an Ed25519 key")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
