package nsm

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Sizes of the module's messages, in bytes (drivers/misc/nsm.c: NSM_REQUEST_MAX_SIZE, NSM_RESPONSE_MAX_SIZE).
const (
	MaxRequest  = 0x1000
	MaxResponse = 0x3000
)

// Module is a Nitro Secure Module. Its methods may not be called from several goroutines at once.
type Module struct {
	// Exchange sends a request and returns the answer, both in CBOR.
	Exchange func(request []byte) (response []byte, err error)
}

// Register is a platform configuration register as the module describes it.
type Register struct {
	Value  []byte // 48 bytes
	Locked bool   // it can no longer be extended, and is in attestation documents
}

// DescribePCR reads a register.
func (m *Module) DescribePCR(index int) (Register, error) {
	var answer struct {
		Data []byte `cbor:"data"`
		Lock bool   `cbor:"lock"`
	}
	err := m.call("DescribePCR", map[string]any{"index": index}, &answer)
	return Register{answer.Data, answer.Lock}, err
}

// ExtendPCR extends a register that is not locked with data, and returns its new value.
func (m *Module) ExtendPCR(index int, data []byte) ([]byte, error) {
	var answer struct {
		Data []byte `cbor:"data"`
	}
	err := m.call("ExtendPCR", map[string]any{"index": index, "data": data}, &answer)
	return answer.Data, err
}

// LockPCR locks a register until the enclave ends.
func (m *Module) LockPCR(index int) error {
	return m.call("LockPCR", map[string]any{"index": index}, nil)
}

// Random returns some random bytes; the module decides how many, at most 256.
func (m *Module) Random() ([]byte, error) {
	var answer struct {
		Random []byte `cbor:"random"`
	}
	err := m.call("GetRandom", nil, &answer)
	return answer.Random, err
}

// Attest returns an attestation document that the module signs. It omits fields that are nil.
func (m *Module) Attest(userData, nonce, publicKey []byte) ([]byte, error) {
	var answer struct {
		Document []byte `cbor:"document"`
	}
	arguments := map[string]any{"user_data": userData, "nonce": nonce, "public_key": publicKey}
	err := m.call("Attestation", arguments, &answer)
	return answer.Document, err
}

// call sends a request: its name alone, or a map from its name to its arguments. The answer has the same
// form.
func (m *Module) call(name string, arguments map[string]any, answer any) error {
	var message any = name
	if arguments != nil {
		message = map[string]any{name: arguments}
	}
	request, err := cbor.Marshal(message)
	if err != nil {
		return err
	}
	if len(request) > MaxRequest {
		return fmt.Errorf("NSM %s: the request has %d bytes: expected at most %d", name, len(request),
			MaxRequest)
	}
	response, err := m.Exchange(request)
	if err != nil {
		return fmt.Errorf("NSM %s: %w", name, err)
	}
	if err := parseResponse(response, name, answer); err != nil {
		return fmt.Errorf("NSM %s: %w", name, err)
	}
	return nil
}

func parseResponse(response []byte, name string, answer any) error {
	var text string
	if cbor.Unmarshal(response, &text) == nil {
		if text != name || answer != nil {
			return fmt.Errorf("unexpected answer %q", text)
		}
		return nil
	}
	var message map[string]cbor.RawMessage
	if err := cbor.Unmarshal(response, &message); err != nil {
		return fmt.Errorf("invalid answer: %w", err)
	}
	if raw, refused := message["Error"]; refused {
		var code string
		if err := cbor.Unmarshal(raw, &code); err != nil {
			return fmt.Errorf("error %x", []byte(raw))
		}
		return fmt.Errorf("error %s", code)
	}
	raw, ok := message[name]
	if !ok || len(message) != 1 {
		return errors.New("the answer is to another request")
	}
	if answer == nil {
		return nil
	}
	return cbor.Unmarshal(raw, answer)
}
