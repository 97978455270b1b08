package nsm

import (
	"crypto/rand"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// payload is the signed part of an attestation document: the keys and their order as the NSM API's
// AttestationDoc has them.
type payload struct {
	ModuleID    string          `cbor:"module_id"`
	Digest      string          `cbor:"digest"`
	Timestamp   uint64          `cbor:"timestamp"` // milliseconds since 1970
	PCRs        cbor.RawMessage `cbor:"pcrs"`      // the locked registers, by index
	Certificate []byte          `cbor:"certificate"`
	CABundle    [][]byte        `cbor:"cabundle"`
	PublicKey   []byte          `cbor:"public_key"` // null where the enclave gave none, as are the next two
	UserData    []byte          `cbor:"user_data"`
	Nonce       []byte          `cbor:"nonce"`
}

// canonical writes maps in the order of their keys.
var canonical = func() cbor.EncMode {
	mode, err := cbor.EncOptions{Sort: cbor.SortCanonical}.EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// document makes an attestation document: a COSE_Sign1 object without a tag, signed with ES384.
func (m *Module) document(a arguments, now time.Time) ([]byte, error) {
	chain, key, err := m.cfg.Chain(now)
	if err != nil {
		return nil, err
	}
	signer, err := cose.NewSigner(cose.AlgorithmES384, key)
	if err != nil {
		return nil, err
	}
	locked := map[int][]byte{}
	for i, l := range m.locked {
		if l {
			locked[i] = m.values[i][:]
		}
	}
	pcrs, err := canonical.Marshal(locked)
	if err != nil {
		return nil, err
	}
	last := len(chain) - 1
	content, err := cbor.Marshal(payload{
		ModuleID: m.cfg.ID, Digest: "SHA384", Timestamp: uint64(now.UnixMilli()), PCRs: pcrs,
		Certificate: chain[last], CABundle: chain[:last],
		PublicKey: a.PublicKey.bytes(), UserData: a.UserData.bytes(), Nonce: a.Nonce.bytes(),
	})
	if err != nil {
		return nil, err
	}
	message := cose.UntaggedSign1Message{
		Headers: cose.Headers{Protected: cose.ProtectedHeader{
			cose.HeaderLabelAlgorithm: cose.AlgorithmES384}},
		Payload: content,
	}
	if err := message.Sign(rand.Reader, nil, signer); err != nil {
		return nil, err
	}
	return message.MarshalCBOR()
}
