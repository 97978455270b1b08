package release

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/semver"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// IndexName is the name of the signed index, beside the archive of the release that it names.
const IndexName = "index.dsse.json"

const (
	indexType    = "application/vnd.neb.releases.v1+json"
	indexSigners = 2 // keys that must sign an index
	maxIndex     = 1 << 20
)

// Index names the newest release. As in TUF (theupdateframework.github.io/specification, 5.4), it is signed
// by several keys, so that one stolen key is not enough, and expires, so that somebody who withholds a newer
// one cannot do so for long.
type Index struct {
	Version string    `json:"version"`
	Sums    string    `json:"sums"`    // SHA-256 of its SHA256SUMS
	Expires time.Time `json:"expires"` // UTC
}

// SignIndex returns a signed index that names the release until expires. If expires is zero, it adds
// signatures to the index beside the archive, which must name the release.
func (v *Verified) SignIndex(expires time.Time, keys ...crypto.Signer) ([]byte, error) {
	index := Index{v.Version, digestOf(sumsOf(v.files))["sha256"], expires}
	signed := new(sign.Envelope)
	payload, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	if expires.IsZero() {
		data, err := v.readIndex()
		if err != nil {
			return nil, err
		}
		e, found, err := parseIndex(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.indexPath(), err)
		}
		if index.Expires = found.Expires; index != found {
			return nil, fmt.Errorf("%s names release %s with the sums %s, expected %s with %s", v.indexPath(),
				found.Version, found.Sums, index.Version, index.Sums)
		}
		signed, payload = e, e.Payload
	}
	for _, key := range keys {
		e, err := sign.Seal(indexType, payload, key)
		if err != nil {
			return nil, err
		}
		e.Signatures = append(signed.Signatures, e.Signatures...)
		signed = e
	}
	return indented(signed)
}

func (v *Verified) indexPath() string { return filepath.Join(v.dir, IndexName) }

// readIndex reads the index beside the archive.
func (v *Verified) readIndex() ([]byte, error) { return stream.ReadFile(v.indexPath(), maxIndex) }

// parseIndex reads an index. It checks no signature.
func parseIndex(data []byte) (*sign.Envelope, Index, error) {
	var index Index
	e, err := sign.ParseEnvelope(indexType, data)
	if err != nil {
		return nil, index, fmt.Errorf("index of releases: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(e.Payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&index); err != nil {
		return nil, index, fmt.Errorf("index of releases: %w", err)
	}
	if err := CheckVersion(index.Version); err != nil {
		return nil, index, fmt.Errorf("index of releases: %w", err)
	}
	return e, index, nil
}

// Newest checks that the release is the one that an index names, which two trusted keys signed, and that the
// index has not expired and is not older than the newest one that this user saw. An index of nil stands for
// the one beside the archive.
func (v *Verified) Newest(data []byte, keys *trust.Keys, now time.Time) error {
	if data == nil {
		var err error
		if data, err = v.readIndex(); err != nil {
			return fmt.Errorf("a key is trusted for releases, so an index is required: %w", err)
		}
		if err = v.Newest(data, keys, now); err != nil {
			return fmt.Errorf("%s: %w", v.indexPath(), err)
		}
		return nil
	}
	e, index, err := parseIndex(data)
	if err != nil {
		return err
	}
	signers, err := keys.Signers(e, trust.Releases, now)
	if err != nil {
		return fmt.Errorf("index of releases: %w", err)
	}
	if len(signers) < indexSigners {
		return fmt.Errorf("index of releases: signed by %d trusted key, %d are required", len(signers),
			indexSigners)
	}
	if !now.Before(index.Expires) {
		return fmt.Errorf("index of releases: expired on %s: get a newer one",
			index.Expires.Format(time.DateOnly))
	}
	if err := index.see(keys.Seen()); err != nil {
		return err
	}
	if sums := digestOf(sumsOf(v.files))["sha256"]; index.Version != v.Version || index.Sums != sums {
		return fmt.Errorf("the newest release is %s with the sums %s, found %s with %s", index.Version,
			index.Sums, v.Version, sums)
	}
	return nil
}

// see stores the index in the file at path. It fails if the file has a newer one.
func (i Index) see(path string) error {
	var last Index
	data, err := stream.ReadFile(path, maxIndex)
	if err == nil {
		err = json.Unmarshal(data, &last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: the newest index that was seen: %w", path, err)
	}
	if order := semver.Compare("v"+i.Version, "v"+last.Version); err == nil &&
		(order < 0 || order == 0 && i.Expires.Before(last.Expires)) {
		return fmt.Errorf("index of releases: names release %s until %s, older than the one seen before, "+
			"%s until %s", i.Version, i.Expires.Format(time.DateOnly), last.Version,
			last.Expires.Format(time.DateOnly))
	}
	if data, err = json.Marshal(i); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, data)
}
