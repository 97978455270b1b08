package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// newKeys makes a key of each kind that may sign.
func newKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys["Ed25519"] = key
	return keys
}

var some = Output{
	Key: "init-x86_64-1", Component: "init", Arch: "x86_64", Host: "amd64", Isolation: "namespaces",
	Time:  now,
	Files: []File{{"init", strings.Repeat("ab", 32)}},
}

func TestStatements(t *testing.T) {
	path := filepath.Join(t.TempDir(), "neb", "trust.json")
	keys, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range newKeys(t) {
		signed := some
		signed.Inputs = []Input{{"gcc", "14", strings.Repeat("cd", 32)}}
		envelope, err := signed.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.Verify(envelope, now); err == nil {
			t.Errorf("%s: a key that is not trusted: no error", name)
		}
		expires := now.Add(time.Hour)
		if _, err := keys.Add(name, Builds, key.Public(), &expires); err != nil {
			t.Fatal(err)
		}
		if keys, err = Load(path); err != nil { // as the next process reads it
			t.Fatal(err)
		}
		o, signers, err := keys.Verify(envelope, now)
		if err != nil || len(signers) != 1 || signers[0].Name != name || !reflect.DeepEqual(o, some) {
			t.Errorf("%s: %+v by %v, error %v, expected %+v", name, o, signers, err, some)
		}
		if _, _, err := keys.Verify(envelope, expires); err == nil ||
			!strings.Contains(err.Error(), "expired") {
			t.Errorf("%s: after it expired: error %v", name, err)
		}
		changed := bytes.Replace(envelope, []byte(`"payload":"`), []byte(`"payload":"QUFB`), 1)
		if _, _, err := keys.Verify(changed, now); err == nil {
			t.Errorf("%s: changed payload: no error", name)
		}
		if _, err := keys.Remove(name); err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.Verify(envelope, now); err == nil {
			t.Errorf("%s: after it was removed: no error", name)
		}
	}
}

// TestClockSkew has a builder and a user whose clocks differ by a day.
func TestClockSkew(t *testing.T) {
	key := newKeys(t)["Ed25519"]
	keys := new(Keys)
	expires := now.Add(time.Hour)
	if _, err := keys.Trust("builder", Builds, key.Public(), &expires); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, test := range []struct {
		builder, user time.Duration
		accepted      bool
	}{{day, 0, true}, {-day, 0, true}, {0, -day, true}, {0, day, false}} { // the last: the key has expired
		o := some
		o.Time = now.Add(test.builder)
		envelope, err := o.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.Verify(envelope, now.Add(test.user)); (err == nil) != test.accepted {
			t.Errorf("the builder's clock is off by %v and the user's by %v: error %v", test.builder,
				test.user, err)
		}
	}
}

func TestUntrustedForms(t *testing.T) {
	key := newKeys(t)["P-256"]
	keys := new(Keys)
	if _, err := keys.Trust("me", Builds, key.Public(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Trust("me again", Builds, key.Public(), nil); err == nil {
		t.Error("the same key under two names would count twice: no error")
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Trust("RSA", Builds, rsaKey.Public(), nil); err == nil {
		t.Error("an RSA key: no error")
	}
	good, err := some.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := sign.ParseEnvelope(sign.StatementType, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another statement type": {"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"},
		"another predicate":      {"https://slsa.dev/provenance/v1", "https://example.com"},
		"another build type":     {"#build-type", "#other"},
		"a hash that is none":    {strings.Repeat("ab", 32), "abc"},
		"an unknown field":       {`"subject"`, `"x":1,"subject"`},
	} {
		payload := strings.Replace(string(e.Payload), change[0], change[1], 1)
		sealed, err := sign.Seal(sign.StatementType, []byte(payload), key)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(sealed)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.Verify(data, now); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	unsigned := *e
	unsigned.Signatures = nil
	data, err := json.Marshal(unsigned)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.Verify(data, now); err == nil || err.Error() != "not signed by a trusted key" {
		t.Errorf("unsigned: error %v", err)
	}
	releases := new(Keys)
	if _, err := releases.Trust("me", Releases, key.Public(), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := releases.Verify(good, now); err == nil {
		t.Error("a key for releases: no error")
	}
	release, err := sign.Seal("application/octet-stream", e.Payload, key)
	if err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(release); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.Verify(data, now); err == nil {
		t.Error("another payload type: no error")
	}
}

func TestLoadRejects(t *testing.T) {
	twice := filepath.Join(t.TempDir(), "twice.json")
	keys := &Keys{path: twice}
	if _, err := keys.Trust("one", Builds, newKeys(t)["Ed25519"].Public(), nil); err != nil {
		t.Fatal(err)
	}
	one, err := json.Marshal(keys.list)
	if err != nil {
		t.Fatal(err)
	}
	second := keys.list[0]
	second.Name = "two" // with --require 2, one key would do
	keys.list = append(keys.list, second)
	list, err := json.Marshal(keys.list)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a key twice": string(list),
		"no JSON":     "keys",
		"another use": strings.Replace(string(one), `"use":"builds"`, `"use":"all"`, 1),
		"no PEM":      `[{"name":"a","id":"b","pem":"c"}]`,
		"another ID":  `[{"name":"a","id":"b","pem":"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"}]`,
	} {
		path := filepath.Join(t.TempDir(), "trust.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, expected one with the file's name", name, err)
		}
	}
}
