package release

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// A user trusts three keys for releases, the last one until a day, and one key for builds.
type user struct {
	*trust.Keys
	signers map[string]crypto.Signer
}

var (
	today = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	day   = 24 * time.Hour
)

func newUser(t *testing.T) user {
	t.Helper()
	keys, err := trust.Load(filepath.Join(t.TempDir(), "neb", "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	u := user{keys, map[string]crypto.Signer{}}
	expired := today.Add(-time.Second)
	for i, name := range []string{"alice", "bob", "expired", "builder", "stranger"} {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i)}, ed25519.SeedSize))
		u.signers[name] = key
		use, until := trust.Releases, (*time.Time)(nil)
		switch name {
		case "stranger":
			continue
		case "builder":
			use = trust.Builds
		case "expired":
			until = &expired
		}
		if _, err := keys.Trust(name, use, key.Public(), until); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// index signs an index of the release with the named keys.
func (u user) index(t *testing.T, v *Verified, expires time.Time, names ...string) []byte {
	t.Helper()
	var keys []crypto.Signer
	for _, name := range names {
		keys = append(keys, u.signers[name])
	}
	data, err := v.SignIndex(expires, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// verified is a release with a version, as far as its index goes.
func verified(t *testing.T, version string) *Verified {
	t.Helper()
	return &Verified{Version: version, dir: t.TempDir(),
		files: []file{{archiveName(version), []byte("blobs")}}}
}

func TestNewest(t *testing.T) {
	older, newer := verified(t, "1.9.0"), verified(t, "1.10.0")
	soon, later := today.Add(30*day), today.Add(60*day)
	for _, test := range []struct {
		name    string
		release *Verified
		index   func(t *testing.T, u user) []byte // after an index of 1.9.0 until soon was seen
		now     time.Time
		want    string // in the error; "" for none
	}{
		{"the same again", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "bob")
		}, today, ""},
		{"a newer release", newer, func(t *testing.T, u user) []byte {
			return u.index(t, newer, soon, "alice", "bob")
		}, today, ""},
		{"the same release for longer", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, later, "alice", "bob")
		}, today, ""},
		{"rollback: an index that expires before the one seen", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon.Add(-day), "alice", "bob")
		}, today, "older than the one seen before"},
		{"rollback: an older release", verified(t, "1.8.9"), func(t *testing.T, u user) []byte {
			return u.index(t, verified(t, "1.8.9"), later, "alice", "bob")
		}, today, "older than the one seen before"},
		{"rollback: a pre-release of the one seen", verified(t, "1.9.0-rc.1"),
			func(t *testing.T, u user) []byte {
				return u.index(t, verified(t, "1.9.0-rc.1"), later, "alice", "bob")
			}, today, "older than the one seen before"},
		{"freeze: expired", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "bob")
		}, soon, "expired on 2026-12-29"},
		{"freeze: the clock is a day slow", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "bob")
		}, soon.Add(-day), ""},
		{"the clock is a day fast", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "bob")
		}, soon.Add(day), "expired on"},
		{"not the newest release", older, func(t *testing.T, u user) []byte {
			return u.index(t, newer, soon, "alice", "bob")
		}, today, "the newest release is 1.10.0"},
		{"one key", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"one key twice", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "alice")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"a stranger's key", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "stranger")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"a key for builds", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "builder")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"an expired key", older, func(t *testing.T, u user) []byte {
			return u.index(t, older, soon, "alice", "expired")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"a removed key", older, func(t *testing.T, u user) []byte {
			if _, err := u.Remove("bob"); err != nil {
				t.Fatal(err)
			}
			return u.index(t, older, soon, "alice", "bob")
		}, today, "signed by 1 trusted key, 2 are required"},
		{"no index", older, func(*testing.T, user) []byte { return nil }, today, "an index is required"},
		{"no envelope", older, func(*testing.T, user) []byte { return []byte("{}") }, today, "payload type"},
		{"changed after signing", older, func(t *testing.T, u user) []byte {
			return change(t, u.index(t, older, soon, "alice", "bob"), "2026-12-29", "2036-12-29")
		}, today, "not signed by a trusted key"},
		{"a statement of another kind", older, func(t *testing.T, u user) []byte {
			e, err := sign.Seal(sign.StatementType, []byte("{}"), u.signers["alice"])
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}, today, "payload type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := newUser(t)
			if err := older.Newest(u.index(t, older, soon, "alice", "bob"), u.Keys, today); err != nil {
				t.Fatal(err)
			}
			err := test.release.Newest(test.index(t, u), u.Keys, test.now)
			if test.want == "" && err != nil || test.want != "" &&
				(err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, expected %q", err, test.want)
			}
			// What was refused is not remembered.
			if err := older.Newest(u.index(t, older, soon, "alice", "bob"), u.Keys, today); err != nil &&
				test.want != "" && test.name != "not the newest release" && test.name != "a removed key" {
				t.Errorf("the index that was seen: %v", err)
			}
		})
	}
}

// change replaces a text in the payload of an envelope.
func change(t *testing.T, envelope []byte, from, to string) []byte {
	t.Helper()
	var e sign.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	e.Payload = bytes.Replace(e.Payload, []byte(from), []byte(to), 1)
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSecondSigner has a second host add its signature to the index beside the archive.
func TestSecondSigner(t *testing.T) {
	u, v := newUser(t), verified(t, "1.2.0")
	if _, err := v.SignIndex(time.Time{}, u.signers["bob"]); err == nil {
		t.Error("no index to add a signature to: no error")
	}
	path := filepath.Join(v.dir, IndexName)
	write(t, path, u.index(t, v, today.Add(30*day), "alice"))
	write(t, path, u.index(t, v, time.Time{}, "bob"))
	if err := v.Newest(nil, u.Keys, today); err != nil {
		t.Error(err)
	}
	other := verified(t, "1.3.0")
	write(t, filepath.Join(other.dir, IndexName), u.index(t, v, today.Add(30*day), "alice"))
	if _, err := other.SignIndex(time.Time{}, u.signers["bob"]); err == nil ||
		!strings.Contains(err.Error(), "names release 1.2.0") {
		t.Errorf("the index names another release: error %v", err)
	}
}
