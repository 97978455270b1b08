package nsm

import (
	"bytes"
	"crypto/sha512"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

const testID = "i-0123456789abcdef0-enc0123456789abcde"

// newModule returns a module, the client of package nsm on it, and the root of its documents.
func newModule(t testing.TB) (*Module, *nsm.Module, *devca.Authority) {
	t.Helper()
	root, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{
		ID: testID, PCRs: map[int]Digest{0: {1}, 1: {2}, 2: {3}, 4: {4}},
		Chain: root.Identity("i-0123456789abcdef0", testID).Chain,
	})
	exchange := func(request []byte) ([]byte, error) { return m.Answer(request), nil }
	return m, &nsm.Module{Exchange: exchange}, root
}

// TestAPI does what the NSM API's own test (nsm-check) does, with that API's expectations.
func TestAPI(t *testing.T) {
	_, client, _ := newModule(t)
	zero := make([]byte, 48)
	for i := range 32 {
		r, err := client.DescribePCR(i)
		if err != nil || len(r.Value) != 48 || r.Locked != (i < 16) {
			t.Errorf("register %d: %x, locked %v, %v", i, r.Value, r.Locked, err)
		}
		if set := i < 3 || i == 4; set == bytes.Equal(r.Value, zero) {
			t.Errorf("register %d: %x", i, r.Value)
		}
	}
	refused := func(err error, code Code) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), string(code)) {
			t.Errorf("got error %v, expected %s", err, code)
		}
	}
	for i := range 16 {
		refused(client.LockPCR(i), ReadOnlyIndex)
	}
	want := zero
	for range 10 {
		sum := sha512.Sum384(append(bytes.Clone(want), 1, 2, 3))
		want = sum[:]
		for i := 16; i < 32; i++ {
			if got, err := client.ExtendPCR(i, []byte{1, 2, 3}); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("register %d: %x, expected %x, %v", i, got, want, err)
			}
		}
	}
	for i := 16; i < 32; i++ {
		if err := client.LockPCR(i); err != nil {
			t.Errorf("lock %d: %v", i, err)
		}
	}
	for i := range 32 {
		_, err := client.ExtendPCR(i, []byte{1})
		refused(err, ReadOnlyIndex)
	}
	_, err := client.DescribePCR(32)
	refused(err, InvalidIndex)
	data := bytes.Repeat([]byte{128}, 1024)
	for _, a := range [][3][]byte{{}, {data}, {data, data}, {data, data, data}} {
		if document, err := client.Attest(a[0], a[1], a[2]); err != nil || len(document) == 0 {
			t.Errorf("attestation: %v", err)
		}
	}
	one, err1 := client.Random()
	other, err2 := client.Random()
	if err1 != nil || err2 != nil || len(one) != 256 || bytes.Equal(one, other) {
		t.Errorf("random: %d bytes, %v, %v", len(one), err1, err2)
	}
}

// TestAnswers has requests that no client of ours makes, and the answers to them in CBOR's diagnostic
// notation.
func TestAnswers(t *testing.T) {
	type m = map[string]any
	large := make([]byte, 1025)
	nested := []any{[]any{[]any{[]any{[]any{1}}}}}
	for _, c := range []struct {
		name    string
		request any
		want    string
	}{
		{"lock a range", m{"LockPCRs": m{"range": 20}}, `"LockPCRs"`},
		{"range of all", m{"LockPCRs": m{"range": 32}}, `"LockPCRs"`},
		{"range of more than all", m{"LockPCRs": m{"range": 33}}, `{"Error": "InvalidIndex"}`},
		{"range without a number", m{"LockPCRs": m{}}, `{"Error": "InvalidOperation"}`},
		{"no index", m{"DescribePCR": m{}}, `{"Error": "InvalidOperation"}`},
		{"index null", m{"DescribePCR": m{"index": nil}}, `{"Error": "InvalidOperation"}`},
		{"index of another type", m{"DescribePCR": m{"index": "0"}}, `{"Error": "InvalidOperation"}`},
		{"negative index", m{"DescribePCR": m{"index": -1}}, `{"Error": "InvalidOperation"}`},
		{"index of 16 bits", m{"DescribePCR": m{"index": 65535}}, `{"Error": "InvalidIndex"}`},
		{"index of more", m{"DescribePCR": m{"index": 65536}}, `{"Error": "InvalidOperation"}`},
		{"no data", m{"ExtendPCR": m{"index": 16}}, `{"Error": "InvalidOperation"}`},
		{"data of another type", m{"ExtendPCR": m{"index": 16, "data": 7}}, `{"Error": "InvalidOperation"}`},
		{"locked", m{"ExtendPCR": m{"index": 0, "data": []byte{0}}}, `{"Error": "ReadOnlyIndex"}`},
		{"user data too long", m{"Attestation": m{"user_data": large}}, `{"Error": "InputTooLarge"}`},
		{"nonce too long", m{"Attestation": m{"nonce": large}}, `{"Error": "InputTooLarge"}`},
		{"public key too long", m{"Attestation": m{"public_key": large}}, `{"Error": "InputTooLarge"}`},
		{"public key empty", m{"Attestation": m{"public_key": []byte{}}}, `{"Error": "InvalidArgument"}`},
		{"user data of another type", m{"Attestation": m{"user_data": 1}}, `{"Error": "InvalidOperation"}`},
		{"argument twice", []byte("\xa1\x6bDescribePCR\xa2\x65index\x01\x65index\x02"), `{"Error": "InvalidOperation"}`},
		{"unknown request", m{"Reboot": m{}}, `{"Error": "InvalidOperation"}`},
		{"unknown name", "Reboot", `{"Error": "InvalidOperation"}`},
		{"a request with arguments without them", "DescribePCR", `{"Error": "InvalidOperation"}`},
		{"a query with arguments", m{"GetRandom": m{}}, `{"Error": "InvalidOperation"}`},
		{"two requests", m{"LockPCR": m{"index": 16}, "LockPCRs": m{"range": 1}}, `{"Error": "InvalidOperation"}`},
		{"no request", m{}, `{"Error": "InvalidOperation"}`},
		{"a number", 1, `{"Error": "InvalidOperation"}`},
		{"arguments in a list", m{"LockPCR": []int{16}}, `{"Error": "InvalidOperation"}`},
		{"deep", nested, `{"Error": "InvalidOperation"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			module, _, _ := newModule(t)
			if got := diagnose(t, module.Answer(encode(t, c.request))); got != c.want {
				t.Errorf("%.80v: got %s, expected %s", c.request, got, c.want)
			}
		})
	}
	module, _, _ := newModule(t)
	for name, c := range map[string]struct {
		request []byte
		want    string
	}{
		"empty":        {nil, `{"Error": "InvalidOperation"}`},
		"cut":          {encode(t, m{"LockPCR": m{"index": 16}})[:12], `{"Error": "InvalidOperation"}`},
		"a CBOR bomb":  {[]byte{0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, `{"Error": "InvalidOperation"}`},
		"endless":      {bytes.Repeat([]byte{0x9f}, 4096), `{"Error": "InvalidOperation"}`},
		"too long":     {make([]byte, 4097), `{"Error": "InputTooLarge"}`},
		"bytes behind": {append(encode(t, m{"LockPCR": m{"index": 17}}), 0xff), `"LockPCR"`},
	} {
		if got := diagnose(t, module.Answer(c.request)); got != c.want {
			t.Errorf("%s: got %s, expected %s", name, got, c.want)
		}
	}
}

// encode makes CBOR of a value; bytes are CBOR already.
func encode(t *testing.T, value any) []byte {
	t.Helper()
	if raw, ok := value.([]byte); ok {
		return raw
	}
	b, err := cbor.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func diagnose(t *testing.T, b []byte) string {
	t.Helper()
	text, err := cbor.Diagnose(b)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestDocument(t *testing.T) {
	m, client, root := newModule(t)
	if _, err := client.ExtendPCR(16, []byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := client.LockPCR(16); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Truncate(time.Millisecond)
	raw, err := client.Attest([]byte("user"), []byte{}, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := nsm.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(root.Certificate, time.Now()); err != nil {
		t.Error(err)
	}
	if err := d.Verify(nsm.AWSRoot(), time.Now()); err == nil {
		t.Error("verified under the root of AWS")
	}
	if string(d.UserData) != "user" || d.Nonce == nil || len(d.Nonce) != 0 || string(d.PublicKey) != "key" ||
		d.ModuleID != testID {
		t.Errorf("%+v", d)
	}
	if d.Time.Before(before) || d.Time.After(time.Now()) {
		t.Errorf("time %v, expected about %v", d.Time, before)
	}
	if len(d.PCRs) != 17 {
		t.Errorf("%d registers, expected the 17 that are locked", len(d.PCRs))
	}
	for i, v := range d.PCRs {
		if !bytes.Equal(v, m.values[i][:]) {
			t.Errorf("register %d: %x, expected %x", i, v, m.values[i])
		}
	}
	// A verifier that takes more than three hours after the document's time does not find it valid.
	if err := d.Verify(root.Certificate, time.Now().Add(4*time.Hour)); err == nil {
		t.Error("verified after the end of its certificate")
	}
}

// FuzzAnswer checks that every request has an answer that the client can read, and changes no locked
// register.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []any{
		"GetRandom", "DescribeNSM", map[string]any{"DescribePCR": map[string]any{"index": 1}},
		map[string]any{"ExtendPCR": map[string]any{"index": 16, "data": []byte("x")}},
		map[string]any{"LockPCR": map[string]any{"index": 16}},
		map[string]any{"LockPCRs": map[string]any{"range": 17}},
		map[string]any{"Attestation": map[string]any{"nonce": []byte("n"), "user_data": nil}},
	} {
		b, err := cbor.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	m, _, _ := newModule(f)
	start := m.values
	f.Fuzz(func(t *testing.T, request []byte) {
		answer := m.Answer(request)
		if err := cbor.Wellformed(answer); err != nil || len(answer) > nsm.MaxResponse {
			t.Errorf("answer %x: %v", answer, err)
		}
		if !bytes.Equal(flat(m.values[:16]), flat(start[:16])) {
			t.Error("a locked register changed")
		}
	})
}

func flat(all []Digest) (b []byte) {
	for _, d := range all {
		b = append(b, d[:]...)
	}
	return b
}

// BenchmarkAnswer measures what the module itself costs; docs/benchmarks.md has the times.
func BenchmarkAnswer(b *testing.B) {
	m, _, _ := newModule(b)
	nonce := make([]byte, 32)
	for name, request := range map[string]any{
		"GetRandom":   "GetRandom",
		"Attestation": map[string]any{"Attestation": map[string]any{"nonce": nonce, "user_data": nil}},
	} {
		encoded, err := cbor.Marshal(request)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m.Answer(encoded)
			}
		})
	}
}
