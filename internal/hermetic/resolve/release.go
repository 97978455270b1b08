package resolve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

//go:embed keys
var keyFiles embed.FS

// Keyring returns the keys that neb trusts to sign the indexes of an archive.
func Keyring(archive string) (openpgp.EntityList, error) {
	var all openpgp.EntityList
	names, err := fs.Glob(keyFiles, "keys/"+archive+"/*.asc")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := keyFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, keys...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("archive %s: neb has no keys for it", archive)
	}
	return all, nil
}

// release is a Release file with a valid signature.
type release struct {
	index lock.Index // without its part
	files map[string]indexFile
	byID  bool // index files are also served by their hash
}

// indexFile is a file that a Release file lists.
type indexFile struct {
	size   int64 // bytes
	sha256 string
}

// place is a suite of an archive.
type place struct{ archive, suite string }

func (p place) String() string { return p.archive + " " + p.suite }

const (
	mostRelease = 4 << 20   // bytes of a Release file; Debian's has 0.2 MB
	mostIndex   = 128 << 20 // bytes of a compressed index; Debian's largest has 10 MB
)

// release downloads and verifies the InRelease file of a suite. If the file of a mirror is wrong, expired
// or older than the lock, the next mirror is asked.
func (r *resolver) release(ctx context.Context, p place) (*release, error) {
	if known := r.releases[p]; known != nil {
		return known, nil
	}
	keys := r.Keys[p.archive]
	if keys == nil {
		var err error
		if keys, err = Keyring(p.archive); err != nil {
			return nil, err
		}
	}
	var found *release
	paths := []string{"dists/" + p.suite + "/InRelease"}
	_, err := r.Mirrors.Newest(ctx, p.archive, paths, r.Now, mostRelease, func(data []byte) error {
		text, err := openInline(keys, data, r.Now)
		if err == nil {
			found, err = r.accept(p, text, data)
		}
		return err
	})
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("no mirror has a valid InRelease file of %s:\n  %w", p, err)
	}
	r.releases[p] = found
	return found, nil
}

// openInline returns the text of a clear-signed message with a signature by one of the keys.
func openInline(keys openpgp.KeyRing, data []byte, now time.Time) ([]byte, error) {
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no OpenPGP signature: expected a clear-signed file, found %q",
			data[:min(len(data), 40)])
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%d bytes of trailing data after the signature", len(rest))
	}
	_, err := block.VerifySignature(keys, &packet.Config{Time: func() time.Time { return now }})
	if err != nil {
		return nil, fmt.Errorf("invalid OpenPGP signature: "+
			"expected one by a key in internal/hermetic/resolve/keys: %w", err)
	}
	return block.Plaintext, nil
}

// accept parses a Release file with a valid signature. It rejects a file of another suite, an expired one,
// and one that is older than the lock.
func (r *resolver) accept(p place, text, whole []byte) (*release, error) {
	var fields debian.Stanza
	err := debian.Each(bytes.NewReader(text), func(s debian.Stanza) error {
		if fields != nil {
			return errors.New("expected one stanza, found more")
		}
		fields = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("Release file: %w", err)
	}
	// A mirror could serve another suite that the same key signed.
	if fields["Codename"] != p.suite {
		return nil, fmt.Errorf("wrong suite: expected codename %s, found %q", p.suite, fields["Codename"])
	}
	date, err := releaseTime(fields["Date"])
	if err != nil {
		return nil, fmt.Errorf("Date: %w", err)
	}
	if until := fields["Valid-Until"]; until != "" {
		t, err := releaseTime(until)
		if err != nil {
			return nil, fmt.Errorf("Valid-Until: %w", err)
		}
		if r.Now.After(t) {
			return nil, fmt.Errorf("expired: Release file of %s was valid until %s, now is %s",
				p, t.Format(time.RFC3339), r.Now.UTC().Format(time.RFC3339))
		}
	}
	for _, x := range r.before.Indexes {
		if x.Archive == p.archive && x.Suite == p.suite && date.Before(x.Date) {
			return nil, fmt.Errorf("older than the lock: Release file of %s is of %s, expected %s or later",
				p, date.Format(time.RFC3339), x.Date.Format(time.RFC3339))
		}
	}
	sum := sha256.Sum256(whole)
	out := &release{
		index: lock.Index{Archive: p.archive, Suite: p.suite, Component: component, Date: date,
			SHA256: hex.EncodeToString(sum[:])},
		files: map[string]indexFile{},
		byID:  fields["Acquire-By-Hash"] == "yes",
	}
	for line := range strings.Lines(fields["SHA256"]) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("SHA256: expected 'hash size name', found %q", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SHA256: size of %s: %w", f[2], err)
		}
		out.files[f[2]] = indexFile{size, f[0]}
	}
	return out, nil
}

// releaseTime parses a time of a Release file (RFC 1123, always UTC).
func releaseTime(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 MST",
		time.RFC1123Z} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("invalid time: "+
		"expected the form 'Mon, 02 Jan 2006 15:04:05 UTC', found %q", s)
}

// each downloads an index of a suite ("binary-amd64/Packages"), verifies it, and calls f for each stanza.
func (r *resolver) each(ctx context.Context, p place, name string, f func(debian.Stanza) error) error {
	rel, err := r.release(ctx, p)
	if err != nil {
		return err
	}
	name = component + "/" + name + ".xz"
	want, ok := rel.files[name]
	if !ok {
		return fmt.Errorf("Release file of %s: no entry for %s", p, name)
	}
	at := "dists/" + p.suite + "/"
	paths := []string{at + name}
	if rel.byID {
		paths = append([]string{at + path.Dir(name) + "/by-hash/SHA256/" + want.sha256}, paths...)
	}
	data, err := r.Mirrors.Newest(ctx, p.archive, paths, r.Now, mostIndex, func(data []byte) error {
		sum := sha256.Sum256(data)
		if got := hex.EncodeToString(sum[:]); int64(len(data)) != want.size || got != want.sha256 {
			return fmt.Errorf("wrong content: expected %d bytes with SHA-256 %s, found %d bytes with %s",
				want.size, want.sha256, len(data), got)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index %s of %s:\n  %w", name, p, err)
	}
	unpacked, err := xz.NewReader(bytes.NewReader(data))
	if err == nil {
		err = debian.Each(unpacked, f)
	}
	if err != nil {
		return fmt.Errorf("index %s of %s: %w", name, p, err)
	}
	return nil
}
