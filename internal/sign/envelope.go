package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
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

// Signature is one signature of an [Envelope].
type Signature struct {
	KeyID string `json:"keyid"` // SHA-256 of the public key as DER (PKIX), hexadecimal
	Sig   []byte `json:"sig"`   // base64 in the file; ECDSA as ASN.1, Ed25519 as it is
}

// Seal signs a payload and returns its envelope. The key is ECDSA on P-256 (with SHA-256) or Ed25519.
func Seal(payloadType string, payload []byte, key crypto.Signer) (*Envelope, error) {
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	message, hash := encoding(payloadType, payload), crypto.Hash(0)
	if _, ec := key.Public().(*ecdsa.PublicKey); ec {
		digest := sha256.Sum256(message)
		message, hash = digest[:], crypto.SHA256
	}
	// Without a source of randomness ECDSA is deterministic (RFC 6979): the same statement, the same
	// envelope.
	sig, err := key.Sign(nil, message, hash)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", payloadType, err)
	}
	return &Envelope{payloadType, payload, []Signature{{id, sig}}}, nil
}

// Open checks that an envelope is signed by the key, and returns its payload.
func Open(payloadType string, envelope []byte, key crypto.PublicKey) ([]byte, error) {
	var e Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fmt.Errorf("not an envelope: %w", err)
	}
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("envelope: expected payload type %s, found %q", payloadType, e.PayloadType)
	}
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	message := encoding(e.PayloadType, e.Payload)
	for _, s := range e.Signatures {
		good := false
		switch key := key.(type) {
		case *ecdsa.PublicKey:
			digest := sha256.Sum256(message)
			good = ecdsa.VerifyASN1(key, digest[:], s.Sig)
		case ed25519.PublicKey:
			good = ed25519.Verify(key, message, s.Sig)
		}
		if good {
			return e.Payload, nil
		}
	}
	return nil, fmt.Errorf("envelope: none of its %d signatures is by key %s", len(e.Signatures), id)
}

// encoding is what is signed: DSSE's pre-authentication encoding.
func encoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func keyID(key crypto.PublicKey) (string, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize != 256 {
			return "", fmt.Errorf("expected an ECDSA key on P-256, found one on %s", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return "", errors.New("expected an ECDSA key on P-256 or an Ed25519 key")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
