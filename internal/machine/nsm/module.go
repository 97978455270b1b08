package nsm

import (
	"crypto"
	"crypto/rand"
	"crypto/sha512"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// Registers of a module.
const (
	registers  = 32
	preLocked  = 16 // registers 0 to 15 are locked from the start
	randomSize = 256
)

// Limits of what an attestation request may hold, in bytes. The NSM API's own test asks for 1,024 bytes of
// each and expects a document; section 3.2.2.2 of its attestation process says 512 for two of them.
const (
	maxUserData  = 1024
	maxNonce     = 1024
	maxPublicKey = 1024
)

// Digest is the value of a register, a SHA-384 digest.
type Digest = [sha512.Size384]byte

// Code is an error that the module answers with, by its name in the NSM API.
type Code string

// The errors of the NSM API that a module answers with.
const (
	InvalidArgument  Code = "InvalidArgument"
	InvalidIndex     Code = "InvalidIndex"
	ReadOnlyIndex    Code = "ReadOnlyIndex"
	InvalidOperation Code = "InvalidOperation"
	BufferTooSmall   Code = "BufferTooSmall"
	InputTooLarge    Code = "InputTooLarge"
	InternalError    Code = "InternalError"
)

// Config describes a module.
type Config struct {
	// ID is the module's name: the instance and the enclave, "i-…-enc…".
	ID string
	// PCRs are the registers that are not zero at the start, by index below 16.
	PCRs map[int]Digest
	// Chain returns the certificates that vouch for the module, in DER, the root first and the module's own
	// last, and the key of the last (ECDSA on P-384). A nil function makes the module answer attestations
	// with InternalError.
	Chain func(now time.Time) (chain [][]byte, key crypto.Signer, err error)
}

// Module is the state of a Nitro Secure Module: its registers. Its methods may not be called at once.
type Module struct {
	cfg    Config
	values [registers]Digest
	locked [registers]bool
}

// New returns a module as an enclave finds it at its start.
func New(cfg Config) *Module {
	m := &Module{cfg: cfg}
	for i, v := range cfg.PCRs {
		m.values[i] = v
	}
	for i := range preLocked {
		m.locked[i] = true
	}
	return m
}

// requests reads the CBOR of requests. A request of 4,096 bytes bounds all it can hold; nesting is what the
// API has.
var requests = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxMapPairs:       16,
		MaxArrayElements:  16,
		MaxNestedLevels:   4,
		TagsMd:            cbor.TagsForbidden,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// operations are the requests with arguments, by name. They return what stands under their name in the
// answer, nil for an answer that is the name alone.
var operations = map[string]func(*Module, arguments) (any, Code){
	"DescribePCR": (*Module).describePCR,
	"ExtendPCR":   (*Module).extendPCR,
	"LockPCR":     (*Module).lockPCR,
	"LockPCRs":    (*Module).lockPCRs,
	"Attestation": (*Module).attestation,
}

// queries are the requests that are a name alone.
var queries = map[string]func(*Module) (any, Code){
	"DescribeNSM": (*Module).describe,
	"GetRandom":   (*Module).random,
}

// Answer returns the answer to a request, both in CBOR. It always has one: an error is an answer. Bytes after
// the request are ignored, as QEMU's module does.
func (m *Module) Answer(request []byte) []byte {
	if len(request) > nsm.MaxRequest {
		return refuse(InputTooLarge)
	}
	var name string
	var result any
	var code Code
	var call map[string]cbor.RawMessage
	if _, err := requests.UnmarshalFirst(request, &name); err == nil {
		query, ok := queries[name]
		if !ok {
			return refuse(InvalidOperation)
		}
		result, code = query(m)
	} else if _, err := requests.UnmarshalFirst(request, &call); err == nil && len(call) == 1 {
		var args arguments
		for n, raw := range call {
			name = n
			if requests.Unmarshal(raw, &args) != nil {
				return refuse(InvalidOperation)
			}
		}
		operation, ok := operations[name]
		if !ok {
			return refuse(InvalidOperation)
		}
		result, code = operation(m, args)
	} else {
		return refuse(InvalidOperation)
	}
	if code != "" {
		return refuse(code)
	}
	answer := any(name)
	if result != nil {
		answer = map[string]any{name: result}
	}
	encoded, err := cbor.Marshal(answer)
	if err != nil {
		return refuse(InternalError)
	}
	if len(encoded) > nsm.MaxResponse {
		return refuse(BufferTooSmall)
	}
	return encoded
}

func refuse(code Code) []byte {
	answer, err := cbor.Marshal(map[string]Code{"Error": code})
	if err != nil {
		panic(err) // two short texts
	}
	return answer
}

// arguments are those of all operations: each takes its own and ignores the others. A pointer is nil where
// the request lacks the argument.
type arguments struct {
	Index     *uint64 `cbor:"index"`
	Range     *uint64 `cbor:"range"`
	Data      *octets `cbor:"data"`
	UserData  *octets `cbor:"user_data"`
	Nonce     *octets `cbor:"nonce"`
	PublicKey *octets `cbor:"public_key"`
}

// octets is a byte string, or a text, which the module takes for its bytes.
type octets []byte

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (o *octets) UnmarshalCBOR(raw []byte) error {
	var text string
	if requests.Unmarshal(raw, &text) == nil {
		*o = octets(text)
		return nil
	}
	return requests.Unmarshal(raw, (*[]byte)(o))
}

func (o *octets) bytes() []byte {
	if o == nil {
		return nil
	}
	return *o
}

// index is the register that an operation is for.
func (a arguments) index() (int, Code) {
	switch {
	case a.Index == nil || *a.Index > math.MaxUint16:
		return 0, InvalidOperation
	case *a.Index >= registers:
		return 0, InvalidIndex
	}
	return int(*a.Index), ""
}

func (m *Module) describePCR(a arguments) (any, Code) {
	i, code := a.index()
	if code != "" {
		return nil, code
	}
	return map[string]any{"lock": m.locked[i], "data": m.values[i][:]}, ""
}

func (m *Module) extendPCR(a arguments) (any, Code) {
	if a.Data == nil {
		return nil, InvalidOperation
	}
	i, code := a.index()
	switch {
	case code != "":
		return nil, code
	case m.locked[i]:
		return nil, ReadOnlyIndex
	}
	m.values[i] = sha512.Sum384(append(m.values[i][:], *a.Data...))
	return map[string]any{"data": m.values[i][:]}, ""
}

func (m *Module) lockPCR(a arguments) (any, Code) {
	i, code := a.index()
	switch {
	case code != "":
		return nil, code
	case m.locked[i]:
		return nil, ReadOnlyIndex
	}
	m.locked[i] = true
	return nil, ""
}

func (m *Module) lockPCRs(a arguments) (any, Code) {
	switch {
	case a.Range == nil || *a.Range > math.MaxUint16:
		return nil, InvalidOperation
	case *a.Range > registers:
		return nil, InvalidIndex
	}
	for i := range *a.Range {
		m.locked[i] = true
	}
	return nil, ""
}

func (m *Module) describe() (any, Code) {
	locked := []int{}
	for i, l := range m.locked {
		if l {
			locked = append(locked, i)
		}
	}
	return map[string]any{
		"version_major": 1, "version_minor": 0, "version_patch": 0,
		"module_id": m.cfg.ID, "max_pcrs": registers, "locked_pcrs": locked, "digest": "SHA384",
	}, ""
}

func (m *Module) random() (any, Code) {
	var b [randomSize]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return map[string]any{"random": b[:]}, ""
}

func (m *Module) attestation(a arguments) (any, Code) {
	for _, field := range []struct {
		value *octets
		most  int
	}{{a.UserData, maxUserData}, {a.Nonce, maxNonce}, {a.PublicKey, maxPublicKey}} {
		if len(field.value.bytes()) > field.most {
			return nil, InputTooLarge
		}
	}
	if a.PublicKey != nil && len(*a.PublicKey) == 0 {
		return nil, InvalidArgument // a document's public_key has at least one byte
	}
	if m.cfg.Chain == nil {
		return nil, InternalError
	}
	document, err := m.document(a, time.Now())
	if err != nil {
		return nil, InternalError
	}
	return map[string]any{"document": document}, ""
}
