package nsm_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

func TestModule(t *testing.T) {
	var asked []byte
	answer := func(b ...[]byte) *nsm.Module {
		return &nsm.Module{Exchange: func(request []byte) ([]byte, error) {
			asked = bytes.Clone(request)
			return join(b...), nil
		}}
	}
	one := func(name string, inner ...[]byte) []byte { return join(head(5, 1), text(name), join(inner...)) }

	m := answer(one("DescribePCR", head(5, 2), text("lock"), []byte{0xf5}, text("data"), octets(pcr0)))
	if r, err := m.DescribePCR(3); err != nil || !r.Locked || !bytes.Equal(r.Value, pcr0) {
		t.Errorf("DescribePCR: %+v, %v", r, err)
	}
	if want := one("DescribePCR", head(5, 1), text("index"), number(3)); !bytes.Equal(asked, want) {
		t.Errorf("DescribePCR asks %x, want %x", asked, want)
	}
	m = answer(one("ExtendPCR", head(5, 1), text("data"), octets(pcr8)))
	if value, err := m.ExtendPCR(16, []byte("x")); err != nil || !bytes.Equal(value, pcr8) {
		t.Errorf("ExtendPCR: %x, %v", value, err)
	}
	if !bytes.Contains(asked, join(text("data"), octets([]byte("x")))) ||
		!bytes.Contains(asked, join(text("index"), number(16))) {
		t.Errorf("ExtendPCR asks %x", asked)
	}
	m = answer(one("GetRandom", head(5, 1), text("random"), octets([]byte{4, 5})))
	if b, err := m.Random(); err != nil || !bytes.Equal(b, []byte{4, 5}) {
		t.Errorf("Random: %x, %v", b, err)
	}
	if !bytes.Equal(asked, text("GetRandom")) {
		t.Errorf("Random asks %x", asked)
	}
	m = answer(one("Attestation", head(5, 1), text("document"), octets([]byte("doc"))))
	if b, err := m.Attest(nil, []byte{9}, nil); err != nil || string(b) != "doc" {
		t.Errorf("Attest: %q, %v", b, err)
	}
	for _, want := range [][]byte{join(text("nonce"), octets([]byte{9})), join(text("user_data"), null),
		join(text("public_key"), null)} {
		if !bytes.Contains(asked, want) {
			t.Errorf("Attest asks %x, without %x", asked, want)
		}
	}
	if err := answer(text("LockPCR")).LockPCR(16); err != nil {
		t.Errorf("LockPCR: %v", err)
	}

	for name, response := range map[string][]byte{
		"ReadOnlyIndex":     one("Error", text("ReadOnlyIndex")),
		"another request":   one("DescribeNSM", head(5, 0)),
		"invalid answer":    {0xff},
		"unexpected answer": text("ExtendPCR"),
	} {
		if _, err := answer(response).ExtendPCR(0, []byte("x")); err == nil ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%x: error %v, want one with %q", response, err, name)
		}
	}
	if _, err := answer().ExtendPCR(16, make([]byte, nsm.MaxRequest)); err == nil ||
		!strings.Contains(err.Error(), "expected at most 4096") {
		t.Errorf("a large request: %v", err)
	}
	broken := &nsm.Module{Exchange: func([]byte) ([]byte, error) { return nil, errors.New("no device") }}
	if _, err := broken.Random(); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Errorf("a device that fails: %v", err)
	}
}
