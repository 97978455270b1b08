// Package trust keeps the public keys that a user trusts, and writes and reads signed statements of which
// files a build makes. It does not transport statements (see remote) and does not build.
package trust

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// maxFile is the largest file of keys, in bytes.
const maxFile = 1 << 20

// What a key is trusted for.
const (
	Builds   = "builds"   // statements of builds
	Releases = "releases" // the index of releases
)

// Key is a public key that the user trusts.
type Key struct {
	Name    string     `json:"name"`              // given by the user, unique
	Use     string     `json:"use"`               // [Builds] or [Releases]
	ID      string     `json:"id"`                // SHA-256 of the key as DER (PKIX), in hexadecimal
	Expires *time.Time `json:"expires,omitempty"` // statements are not accepted from then on; nil: never
	PEM     string     `json:"pem"`               // PKIX

	public crypto.PublicKey
}

// Keys are the keys in one file. The zero value trusts nobody.
type Keys struct {
	path string
	list []Key
}

// Path returns where a user's keys are: neb/trust.json in the user's configuration directory.
func Path() (string, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("file of trusted keys: %w", err)
	}
	return filepath.Join(config, "neb", "trust.json"), nil
}

// Load reads the keys in a file. A file that does not exist has none.
func Load(path string) (*Keys, error) {
	k := &Keys{path: path}
	data, err := stream.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Key
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: expected a list of keys: %w", path, err)
	}
	for _, key := range list {
		block, _ := pem.Decode([]byte(key.PEM))
		if block == nil {
			return nil, fmt.Errorf("%s: key %q: expected a public key in PEM", path, key.Name)
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: key %q: %w", path, key.Name, err)
		}
		// A key twice would count twice.
		found, err := k.Trust(key.Name, cmp.Or(key.Use, Builds), public, key.Expires)
		if err != nil {
			return nil, fmt.Errorf("%s: key %q: %w", path, key.Name, err)
		}
		if found.ID != key.ID {
			return nil, fmt.Errorf("%s: key %q: expected the ID %s, found %q", path, key.Name, found.ID,
				key.ID)
		}
	}
	return k, nil
}

// Seen returns the path of the file with the newest index of releases that this user saw.
func (k *Keys) Seen() string { return filepath.Join(filepath.Dir(k.path), "releases.json") }

// List returns the keys in the order they were added.
func (k *Keys) List() []Key { return slices.Clone(k.list) }

// Add is [Keys.Trust], and writes the file.
func (k *Keys) Add(name, use string, public crypto.PublicKey, expires *time.Time) (Key, error) {
	key, err := k.Trust(name, use, public, expires)
	if err != nil {
		return key, fmt.Errorf("%s: %w", k.path, err)
	}
	return key, k.write()
}

// Trust trusts a key under a name for a use, until expires if that is not nil.
func (k *Keys) Trust(name, use string, public crypto.PublicKey, expires *time.Time) (Key, error) {
	if use != Builds && use != Releases {
		return Key{}, fmt.Errorf("invalid use %q: expected %s or %s", use, Builds, Releases)
	}
	id, err := sign.KeyID(public)
	if err != nil {
		return Key{}, err
	}
	if i := slices.IndexFunc(k.list, func(o Key) bool { return o.Name == name || o.ID == id }); i >= 0 {
		return Key{}, fmt.Errorf("key %s is already trusted as %q; remove it first", k.list[i].ID,
			k.list[i].Name)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	key := Key{Name: name, Use: use, ID: id, Expires: expires, PEM: string(text), public: public}
	k.list = append(k.list, key)
	return key, nil
}

// Remove ends the trust in the key with this name or ID, and writes the file.
func (k *Keys) Remove(name string) (Key, error) {
	i := slices.IndexFunc(k.list, func(o Key) bool { return o.Name == name || o.ID == name })
	if i < 0 {
		return Key{}, fmt.Errorf("%s: no key with the name or ID %q", k.path, name)
	}
	key := k.list[i]
	k.list = slices.Delete(k.list, i, i+1)
	return key, k.write()
}

func (k *Keys) write() error {
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(k.list, "", "\t")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(k.path, append(data, '\n'))
}

// Has reports whether a key is trusted for a use, expired or not.
func (k *Keys) Has(use string) bool {
	return slices.ContainsFunc(k.list, func(key Key) bool { return key.Use == use })
}

// Signers returns the keys that are trusted for a use and signed an envelope. It fails if there is none.
func (k *Keys) Signers(e *sign.Envelope, use string, now time.Time) ([]Key, error) {
	var signers []Key
	var expired []string
	for _, key := range k.list {
		switch {
		case key.Use != use || !e.SignedBy(key.public):
		case key.Expires != nil && !now.Before(*key.Expires):
			expired = append(expired, fmt.Sprintf("key %q expired on %s", key.Name,
				key.Expires.Format(time.DateOnly)))
		default:
			signers = append(signers, key)
		}
	}
	if len(signers) == 0 && len(expired) > 0 {
		return nil, errors.New(strings.Join(expired, ", "))
	}
	if len(signers) == 0 {
		return nil, errors.New("not signed by a trusted key")
	}
	return signers, nil
}

// Verify reads a signed statement of an output, and returns it with the trusted keys that signed it. It fails
// if there is none.
func (k *Keys) Verify(envelope []byte, now time.Time) (Output, []Key, error) {
	e, err := sign.ParseEnvelope(sign.StatementType, envelope)
	if err != nil {
		return Output{}, nil, err
	}
	signers, err := k.Signers(e, Builds, now)
	if err != nil {
		return Output{}, nil, err
	}
	o, err := parse(e.Payload)
	return o, signers, err
}
