package nsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// The CBOR of documents, written by hand from docs/attestation_process.md.

func head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 1<<8:
		return []byte{major<<5 | 24, byte(n)}
	case n < 1<<16:
		return []byte{major<<5 | 25, byte(n >> 8), byte(n)}
	default:
		b := []byte{major<<5 | 27}
		for shift := 56; shift >= 0; shift -= 8 {
			b = append(b, byte(n>>shift))
		}
		return b
	}
}

func text(s string) []byte        { return append(head(3, uint64(len(s))), s...) }
func octets(b []byte) []byte      { return append(head(2, uint64(len(b))), b...) }
func number(n uint64) []byte      { return head(0, n) }
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var null = []byte{0xf6}

// field is a key and a value of the payload, encoded.
type field struct {
	key   string
	value []byte
}

func payload(fields []field) []byte {
	b := head(5, uint64(len(fields)))
	for _, f := range fields {
		b = join(b, text(f.key), f.value)
	}
	return b
}

// authority is a chain of certificates like that of AWS: root, region, zone, instance.
type authority struct {
	chain []*x509.Certificate // root first
	keys  []*ecdsa.PrivateKey
}

var (
	now  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	from = now.Add(-time.Hour)
	to   = now.Add(time.Hour)
)

// issue makes a certificate. template's issuer is the last of the chain, or itself.
func (a *authority) issue(t testing.TB, template *x509.Certificate, curve elliptic.Curve) (*x509.Certificate,
	*ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(int64(len(a.chain) + 1))
	parent, signer := template, key
	if n := len(a.chain); n > 0 {
		parent, signer = a.chain[n-1], a.keys[n-1]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

func targetTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "i-1234.enclave"}, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func newAuthority(t testing.TB, change ...func(i int, c *x509.Certificate)) *authority {
	t.Helper()
	a := &authority{}
	for i, name := range []string{"root", "region", "zone", "instance"} {
		template := caTemplate(name)
		for _, f := range change {
			f(i, template)
		}
		c, key := a.issue(t, template, elliptic.P384())
		a.chain, a.keys = append(a.chain, c), append(a.keys, key)
	}
	return a
}

func (a *authority) bundle() []byte {
	b := head(4, uint64(len(a.chain)))
	for _, c := range a.chain {
		b = join(b, octets(c.Raw))
	}
	return b
}

var (
	pcr0 = bytes.Repeat([]byte{0xa0}, 48)
	pcr8 = bytes.Repeat([]byte{0xa8}, 48)
)

// fields are those of a good document.
func (a *authority) fields(target *x509.Certificate) []field {
	return []field{
		{"module_id", text("i-1234-enc5678")},
		{"digest", text("SHA384")},
		{"timestamp", number(uint64(now.UnixMilli()))},
		{"pcrs", join(head(5, 2), number(0), octets(pcr0), number(8), octets(pcr8))},
		{"certificate", octets(target.Raw)},
		{"cabundle", a.bundle()},
		{"public_key", null},
		{"user_data", octets([]byte("hello"))},
		{"nonce", octets([]byte{1, 2, 3})},
	}
}

var es384 = []byte{0xa1, 0x01, 0x38, 0x22}

// sign makes a document of a payload.
func sign(t testing.TB, key *ecdsa.PrivateKey, protected, body []byte) []byte {
	t.Helper()
	digest := sha512.Sum384(join(head(4, 4), text("Signature1"), octets(protected), octets(nil),
		octets(body)))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 96)
	r.FillBytes(signature[:48])
	s.FillBytes(signature[48:])
	return join(head(4, 4), octets(protected), head(5, 0), octets(body), octets(signature))
}

func TestGoodDocument(t *testing.T) {
	a := newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	document := sign(t, key, es384, payload(a.fields(target)))
	indefinite := sign(t, key, es384, join([]byte{0xbf}, payload(a.fields(target))[1:], []byte{0xff}))
	// The same signature with the other s.
	other := bytes.Clone(document)
	s := other[len(other)-48:]
	new(big.Int).Sub(elliptic.P384().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
	for name, document := range map[string][]byte{
		"with n-s":               other,
		"untagged":               document,
		"tagged":                 join([]byte{0xd2}, document),
		"with an indefinite map": indefinite,
	} {
		d, err := nsm.Parse(document)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := d.Verify(a.chain[0], now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d.ModuleID != "i-1234-enc5678" || !d.Time.Equal(now) || !bytes.Equal(d.PCRs[0], pcr0) ||
			len(d.PCRs) != 2 ||
			d.PublicKey != nil || string(d.UserData) != "hello" || !bytes.Equal(d.Nonce, []byte{1, 2, 3}) ||
			d.Debug() {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestCompare(t *testing.T) {
	a := newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	d, err := nsm.Parse(sign(t, key, es384, payload(a.fields(target))))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		want nsm.Expectation
		find []string
	}{
		{"nothing", nsm.Expectation{}, nil},
		{"all of it", nsm.Expectation{PCRs: map[int][]byte{0: pcr0, 8: pcr8}, Nonce: []byte{1, 2, 3},
			UserData: []byte("hello")}, nil},
		{"other registers", nsm.Expectation{PCRs: map[int][]byte{0: pcr8, 8: pcr0}}, []string{"PCR0",
			"PCR8"}},
		{"a register that is not there", nsm.Expectation{PCRs: map[int][]byte{3: pcr0}},
			[]string{"does not have it"}},
		{"another nonce", nsm.Expectation{Nonce: []byte{1, 2}}, []string{"nonce: expected"}},
		{"an empty nonce", nsm.Expectation{Nonce: []byte{}}, []string{"nonce: expected"}},
		{"a key that is not there", nsm.Expectation{PublicKey: []byte{1}}, []string{"found none"}},
		{"an empty key that is not there", nsm.Expectation{PublicKey: []byte{}}, []string{"found none"}},
	} {
		findings := d.Compare(test.want)
		if len(findings) != len(test.find) {
			t.Errorf("%s: %v", test.name, findings)
			continue
		}
		for i, want := range test.find {
			if !strings.Contains(findings[i].Error(), want) {
				t.Errorf("%s: %v, want one with %q", test.name, findings[i], want)
			}
		}
	}
}

// TestVerifyRefuses changes one thing of a chain or a document at a time.
func TestVerifyRefuses(t *testing.T) {
	at := func(n int, f func(*x509.Certificate)) func(int, *x509.Certificate) {
		return func(i int, c *x509.Certificate) {
			if i == n {
				f(c)
			}
		}
	}
	expired := func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }
	for _, test := range []struct {
		name   string
		chain  func(int, *x509.Certificate)
		target func(*x509.Certificate)
		want   string
	}{
		{"an expired target", nil, expired, "certificate (subject \"CN=i-1234.enclave\") is valid from"},
		{"a target of the future", nil, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) },
			"is valid from"},
		{"an expired root", at(0, expired), nil, "cabundle[0]"},
		{"an expired authority", at(2, expired), nil, "cabundle[2]"},
		{"an authority that is none", at(3, func(c *x509.Certificate) { c.IsCA = false }), nil,
			"cabundle[3] (subject \"CN=instance\"): not a certificate of an authority"},
		{"an authority that may not sign", at(1,
			func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), nil, "cabundle[1]"},
		{"an authority without a key usage", at(1, func(c *x509.Certificate) { c.KeyUsage = 0 }), nil,
			"cabundle[1]"},
		{"a chain longer than allowed", at(1, func(c *x509.Certificate) { c.MaxPathLen = 1 }), nil,
			"chain of certificates"},
		{"a target that is an authority", nil, func(c *x509.Certificate) { c.IsCA = true },
			"found a certificate of an authority"},
		{"a target that may not sign", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign },
			"does not allow signatures"},
		{"an unknown critical extension", nil, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "critical extension"},
		{"a target without basic constraints", nil,
			func(c *x509.Certificate) { c.BasicConstraintsValid = false }, "no basic constraints"},
		{"a target with a critical usage of its own", nil, func(c *x509.Certificate) {
			serverAuth := []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01}
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 37}, Critical: true, Value: serverAuth}}
		}, "critical extended key usage"},
	} {
		t.Run(test.name, func(t *testing.T) {
			change := test.chain
			if change == nil {
				change = func(int, *x509.Certificate) {}
			}
			a := newAuthority(t, change)
			template := targetTemplate()
			if test.target != nil {
				test.target(template)
			}
			target, key := a.issue(t, template, elliptic.P384())
			d, err := nsm.Parse(sign(t, key, es384, payload(a.fields(target))))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Verify(a.chain[0], now); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestVerifyRefusesOthers(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	otherTarget, otherKey := b.issue(t, targetTemplate(), elliptic.P384())
	small, _ := a.issue(t, targetTemplate(), elliptic.P256())
	weak := &authority{chain: slices.Clone(a.chain[:2]), keys: slices.Clone(a.keys[:2])}
	zone, zoneKey := weak.issue(t, caTemplate("zone"), elliptic.P256())
	weak.chain, weak.keys = append(weak.chain, zone), append(weak.keys, zoneKey)
	weakTarget, weakKey := weak.issue(t, targetTemplate(), elliptic.P384())
	of := func(at time.Time) []byte {
		return sign(t, key, es384, change(a.fields(target), "timestamp", number(uint64(at.UnixMilli()))))
	}
	good := payload(a.fields(target))
	swapped := &authority{chain: []*x509.Certificate{a.chain[0], a.chain[2], a.chain[1], a.chain[3]}}
	for _, test := range []struct {
		name     string
		document []byte
		want     string
	}{
		{"another root", sign(t, otherKey, es384, payload(b.fields(otherTarget))),
			"does not start with the trusted root"},
		{"re-signed with another key", sign(t, otherKey, es384, good), "not by the key"},
		{"another chain's target", sign(t, otherKey, es384, payload(a.fields(otherTarget))),
			"chain of certificates"},
		{"a chain out of order", sign(t, key, es384, payload(swapped.fields(target))), "order"},
		{"a certificate too many", sign(t, key, es384, payload((&authority{
			chain: slices.Insert(slices.Clone(a.chain), 1, b.chain[1])}).fields(target))), "order"},
		{"a chain with a hole", sign(t, key, es384, payload((&authority{chain: []*x509.Certificate{a.chain[0],
			a.chain[3]}}).fields(target))), "chain of certificates"},
		{"a target on P-256", sign(t, key, es384, payload(a.fields(small))), "P-384"},
		{"an authority on P-256", sign(t, weakKey, es384, payload(weak.fields(weakTarget))),
			"cabundle[2] (subject \"CN=zone\"): found an ECDSA key"},
		{"a time before the certificate", of(from.Add(-time.Second)), "its certificate is valid from"},
		{"a time after the certificate", of(to.Add(time.Second)), "its certificate is valid from"},
		{"a time of 10 years ahead", of(now.AddDate(10, 0, 0)), "its certificate is valid from"},
		{"a time in seconds", of(time.UnixMilli(now.Unix())), "its certificate is valid from"},
		{"a time in the future", of(now.Add(6 * time.Minute)), "in the future"},
		{"a certificate that is none", sign(t, key, es384, change(a.fields(target), "certificate",
			octets([]byte("x")))), "certificate"},
	} {
		d, err := nsm.Parse(test.document)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if err := d.Verify(a.chain[0], now); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
	// The clocks of module and verifier differ a little.
	if d, err := nsm.Parse(of(now.Add(4 * time.Minute))); err != nil || d.Verify(a.chain[0], now) != nil {
		t.Errorf("a clock that is ahead by 4 minutes: %v, %v", err, d.Verify(a.chain[0], now))
	}
	// A document that changed by one byte of its payload.
	document := sign(t, key, es384, good)
	at := bytes.Index(document, []byte("hello"))
	document[at] ^= 1
	d, err := nsm.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(a.chain[0], now); err == nil || !strings.Contains(err.Error(), "not by the key") {
		t.Errorf("a changed document: %v", err)
	}
}

// change encodes fields with another value in one of them; nil takes it out.
func change(fields []field, key string, value []byte) []byte {
	var changed []field
	for _, f := range fields {
		if f.key == key {
			f.value = value
		}
		if f.value != nil {
			changed = append(changed, f)
		}
	}
	return payload(changed)
}

func TestParseRefuses(t *testing.T) {
	a := newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	f := a.fields(target)
	pcrs := func(b ...[]byte) []byte { return change(f, "pcrs", join(b...)) }
	many := head(5, 33)
	for i := range uint64(33) {
		many = join(many, number(i), octets(pcr0))
	}
	good := payload(f)
	for name, body := range map[string][]byte{
		"an empty module":         change(f, "module_id", text("")),
		"another digest":          change(f, "digest", text("SHA256")),
		"a timestamp of zero":     change(f, "timestamp", number(0)),
		"a negative timestamp":    change(f, "timestamp", head(1, 5)),
		"a huge timestamp":        change(f, "timestamp", number(1<<63)),
		"no registers":            pcrs(head(5, 0)),
		"33 registers":            pcrs(many),
		"register 32":             pcrs(head(5, 1), number(32), octets(pcr0)),
		"register -1":             pcrs(head(5, 1), head(1, 0), octets(pcr0)),
		"a register by name":      pcrs(head(5, 1), text("0"), octets(pcr0)),
		"a register twice":        pcrs(head(5, 2), number(0), octets(pcr0), number(0), octets(pcr8)),
		"a register in two forms": pcrs(head(5, 2), number(0), octets(pcr0), []byte{0x18, 0}, octets(pcr8)),
		"a tag":                   change(f, "module_id", join([]byte{0xd8, 0x2a}, text("i-1234-enc5678"))),
		"a register of 47 bytes":  pcrs(head(5, 1), number(0), octets(pcr0[1:])),
		"a register in text":      pcrs(head(5, 1), number(0), text(string(make([]byte, 48)))),
		"an empty certificate":    change(f, "certificate", octets(nil)),
		"an empty bundle":         change(f, "cabundle", head(4, 0)),
		"a bundle of text":        change(f, "cabundle", join(head(4, 1), text("x"))),
		"a bundle with nothing":   change(f, "cabundle", join(head(4, 1), octets(nil))),
		"an empty public key":     change(f, "public_key", octets(nil)),
		"an unknown field":        payload(append(f[:len(f):len(f)], field{"note", null})),
		"a field in other letters": change(append(f[:len(f):len(f)], field{"Digest", text("SHA384")}),
			"digest", nil),
		"trailing bytes":        append(bytes.Clone(good), 0),
		"a payload that is cut": good[:len(good)-1],
		"an empty payload":      {},
		"a payload of 16,385":   join(good, make([]byte, 16385-len(good))),
		"a list":                head(4, 0),
	} {
		if _, err := nsm.Parse(sign(t, key, es384, body)); err == nil {
			t.Errorf("%s is read", name)
		}
	}

	document := sign(t, key, es384, good)
	for name, document := range map[string][]byte{
		"nothing":            {},
		"trailing bytes":     append(bytes.Clone(document), 0),
		"an indefinite list": join([]byte{0x9f}, document[1:], []byte{0xff}),
		"another tag":        join([]byte{0xd3}, document),
		"two tags":           join([]byte{0xd2, 0xd2}, document),
		"ES256":              sign(t, key, []byte{0xa1, 0x01, 0x26}, good),
		"no algorithm":       sign(t, key, []byte{0xa0}, good),
		"algorithm -1":       sign(t, key, []byte{0xa1, 0x01, 0x20}, good),
		"a second header":    sign(t, key, []byte{0xa2, 0x01, 0x38, 0x22, 0x04, 0x41, 0x31}, good),
		"an unprotected one": bytes.Replace(document, join(octets(es384), head(5, 0)), join(octets(es384),
			[]byte{0xa1, 0x04, 0x41, 0x31}), 1),
		"no signature": join(head(4, 4), octets(es384), head(5, 0), octets(good), octets(nil)),
		"a signature of one byte": join(head(4, 4), octets(es384), head(5, 0), octets(good),
			octets([]byte{0})),
		"a large document": join(document, make([]byte, 20000)),
	} {
		if _, err := nsm.Parse(document); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	for n := range document {
		if _, err := nsm.Parse(document[:n]); err == nil {
			t.Fatalf("a document cut at byte %d is read", n)
		}
	}
}

// TestMutations signs documents with one field missing, null, of each type that it does not have, too long or
// twice. The error names the field.
func TestMutations(t *testing.T) {
	a := newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	values := map[string][]byte{
		"null": null, "number": number(7), "negative": head(1, 7), "text": text("x"),
		"bytes": octets([]byte{7}),
		"list":  head(4, 0), "map": head(5, 0), "boolean": {0xf5}, "float": {0xf9, 0x3c, 0x00},
		"a tag": join(head(6, 24), octets([]byte{7})),
	}
	certificates := join(head(4, 17), bytes.Repeat(octets([]byte{7}), 17))
	mutations := 0
	for _, field := range []struct {
		name, kind string
		optional   bool
		long       []byte
	}{
		{"module_id", "text", false, nil},
		{"digest", "", false, text("SHA384 ")},
		{"timestamp", "number", false, number(1 << 63)},
		{"pcrs", "", false, join(head(5, 1), number(0), octets(make([]byte, 49)))},
		{"certificate", "bytes", false, octets(make([]byte, 1025))},
		{"cabundle", "", false, certificates},
		{"public_key", "bytes", true, octets(make([]byte, 1025))},
		{"user_data", "bytes", true, octets(make([]byte, 1025))},
		{"nonce", "bytes", true, octets(make([]byte, 1025))},
	} {
		fields := a.fields(target)
		bodies := map[string][]byte{}
		for kind, value := range values {
			if kind != field.kind && !(kind == "null" && field.optional) {
				bodies[kind] = change(fields, field.name, value)
			}
		}
		if field.long != nil {
			bodies["long"] = change(fields, field.name, field.long)
		}
		if !field.optional {
			bodies["missing"] = change(fields, field.name, nil)
		}
		for _, f := range fields {
			if f.key == field.name {
				bodies["twice"] = payload(append(slices.Clone(fields), f))
			}
		}
		for name, body := range bodies {
			mutations++
			_, err := nsm.Parse(sign(t, key, es384, body))
			switch {
			case err == nil:
				t.Errorf("%s: %s is read", field.name, name)
			case name != "a tag" && !strings.Contains(err.Error(), field.name):
				t.Errorf("%s: %s: %v, expected the name of the field", field.name, name, err)
			}
		}
	}
	if mutations < 60 {
		t.Errorf("%d mutations, expected at least 60", mutations)
	}
}

func TestDebug(t *testing.T) {
	a := newAuthority(t)
	target, key := a.issue(t, targetTemplate(), elliptic.P384())
	for name, value := range map[string][]byte{
		"zero":    join(head(5, 1), number(0), octets(make([]byte, 48))),
		"missing": join(head(5, 1), number(4), octets(pcr0)),
	} {
		d, err := nsm.Parse(sign(t, key, es384, change(a.fields(target), "pcrs", value)))
		if err != nil {
			t.Fatal(err)
		}
		if !d.Debug() {
			t.Errorf("PCR0 is %s, and the enclave is not known as in debug mode", name)
		}
	}
}

func TestAWSRoot(t *testing.T) {
	root := nsm.AWSRoot()
	if sum := sha256.Sum256(root.Raw); hex.EncodeToString(sum[:]) != nsm.AWSRootSHA256 {
		t.Errorf("the SHA-256 of the AWS root is %x", sum)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	if name := root.Subject.CommonName; name != "aws.nitro-enclaves" {
		t.Errorf("its name is %q", name)
	}
}

// A document of a real enclave, as it was published in the tests of github.com/blocky/nitrite (MIT licence):
// the chain that is built in leads to it for as long as its certificate was valid, and to nothing else.
func TestPublishedDocument(t *testing.T) {
	text, err := os.ReadFile("testdata/published.b64")
	if err != nil {
		t.Fatal(err)
	}
	document, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatal(err)
	}
	d, err := nsm.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	if want := "i-0a22e5c5f24d22174-enc0191cceb4289903f"; d.ModuleID != want || len(d.PCRs) != 16 {
		t.Errorf("expected module %s with 16 PCRs, found %s with %d", want, d.ModuleID, len(d.PCRs))
	}
	if err := d.Verify(nsm.AWSRoot(), d.Time); err != nil {
		t.Error(err)
	}
	if err := d.Verify(nsm.AWSRoot(), now); err == nil {
		t.Error("verified after its certificate had expired")
	}
	if err := d.Verify(newAuthority(t).chain[0], d.Time); err == nil {
		t.Error("verified by another root")
	}
	document[len(document)-1] ^= 1
	if d, err = nsm.Parse(document); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(nsm.AWSRoot(), d.Time); err == nil {
		t.Error("verified with another signature")
	}
}

func FuzzParse(f *testing.F) {
	a := newAuthority(f)
	target, key := a.issue(f, targetTemplate(), elliptic.P384())
	good := payload(a.fields(target))
	document := sign(f, key, es384, good)
	f.Add(document)
	f.Add(join([]byte{0xd2}, document))
	f.Add(document[:100])
	f.Add(sign(f, key, es384, change(a.fields(target), "pcrs", head(5, 0))))
	f.Add(join(head(4, 4), octets([]byte{0xa1, 0x01, 0x20}), head(5, 0), octets(good), octets(make([]byte,
		64))))
	f.Fuzz(func(t *testing.T, document []byte) {
		d, err := nsm.Parse(document)
		if err != nil {
			return
		}
		if len(d.PCRs) == 0 || d.ModuleID == "" || len(d.CABundle) == 0 || d.Time.IsZero() {
			t.Errorf("a document without a field that it must have: %+v", d)
		}
		if err := d.Verify(nsm.AWSRoot(), now); err == nil {
			t.Error("the fuzzer has AWS's key")
		}
		d.Compare(nsm.Expectation{PCRs: map[int][]byte{0: pcr0}, Nonce: []byte{1}})
	})
}
