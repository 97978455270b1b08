package release

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/build/component"
)

// Verified is a release whose files agree with each other, with its provenance and with a lock.
type Verified struct {
	Version   string
	statement []byte // the provenance, as it stands in its file
	dir       string
	blobs     []file
}

// Verify checks the release whose archive is at path and whose other files stand beside it: both checksum files, exactly the
// blobs of a release in the archive, the provenance about exactly these blobs and made with this lock.
//
// It proves no more than that; whether these blobs are what source and lock make, [Verified.Compare] says, and whose they are [Verified.Signed].
func Verify(path string, lockData []byte) (*Verified, error) {
	dir, name := filepath.Split(path)
	version, isArchive := strings.CutPrefix(strings.TrimSuffix(name, ".tar.xz"), "enclaves-blobs-")
	if !isArchive || name != archiveName(version) || CheckVersion(version) != nil {
		return nil, fmt.Errorf("%s: expected a release's archive, enclaves-blobs-VERSION.tar.xz", path)
	}
	names := []string{archiveName(version), billName(version), provenanceName(version)}
	data := map[string][]byte{}
	for _, n := range append([]string{sums[0].name, sums[1].name}, names...) {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: missing: a release is verified with its checksums, bill of materials and provenance beside its archive", filepath.Join(dir, n))
		}
		if err != nil {
			return nil, err
		}
		data[n] = b
	}
	var wrong []error
	for _, s := range sums {
		wrong = append(wrong, checkSums(s.name, data[s.name], names, data, s.digest))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}

	blobs, err := unpack(data[names[0]])
	if err != nil {
		return nil, prefixed(name, err)
	}
	statement := data[names[2]]
	if err := checkStatement(statement, version, lockData, data[names[0]], data[names[1]], blobs); err != nil {
		return nil, prefixed(names[2], err)
	}
	return &Verified{Version: version, statement: statement, dir: dir, blobs: blobs}, nil
}

// Signed checks that the provenance beside the archive is signed by the key: that its envelope is, and holds the same statement.
func (v *Verified) Signed(key crypto.PublicKey) error {
	path := filepath.Join(v.dir, envelopeName(v.Version))
	envelope, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the provenance is not signed: %w", err)
	}
	statement, err := Open(envelope, key)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Equal(statement, v.statement) {
		return fmt.Errorf("%s: signs another statement than the one in %s", path, provenanceName(v.Version))
	}
	return nil
}

// Finding is what a build says about one blob of a release.
type Finding struct {
	Path     string `json:"path"`     // "x86_64/bzImage"
	Expected string `json:"expected"` // SHA-256 of what source and lock make
	Found    string `json:"found"`    // SHA-256 of what is in the release
}

// Same reports whether the blob is what source and lock make.
func (f Finding) Same() bool { return f.Expected == f.Found }

// Compare compares the blobs of the release with those of a build, one by one.
func (v *Verified) Compare(built []component.Record) ([]Finding, error) {
	sums := map[string]string{}
	for _, r := range built {
		for _, f := range r.Files {
			sums[r.Arch+"/"+f.Name] = f.SHA256
		}
	}
	var findings []Finding
	for _, b := range v.blobs {
		if sums[b.name] == "" {
			return nil, fmt.Errorf("%s: is in the release, and was not built", b.name)
		}
		findings = append(findings, Finding{b.name, sums[b.name], digestOf(b.data)["sha256"]})
	}
	return findings, nil
}

// checkSums checks that a checksum file names exactly the given files, with the digests that they have.
func checkSums(name string, sumsFile []byte, names []string, data map[string][]byte, digest func([]byte) []byte) error {
	var wrong []error
	said := map[string]string{}
	for i, line := range strings.Split(strings.TrimSuffix(string(sumsFile), "\n"), "\n") {
		sum, file, ok := strings.Cut(line, "  ")
		if _, twice := said[file]; !ok || twice {
			wrong = append(wrong, fmt.Errorf("%s:%d: expected a digest, two spaces and a name that is new, found %q", name, i+1, line))
			continue
		}
		said[file] = sum
	}
	for _, n := range names {
		sum, there := said[n]
		found := fmt.Sprintf("%x", digest(data[n]))
		switch {
		case !there:
			wrong = append(wrong, fmt.Errorf("%s: says nothing about %s", name, n))
		case sum != found:
			wrong = append(wrong, fmt.Errorf("%s: digest is %s, %s says %s: the file is damaged or another one", n, found, name, sum))
		}
		delete(said, n)
	}
	for n := range said {
		wrong = append(wrong, fmt.Errorf("%s: names %s, which is no part of this release", name, n))
	}
	return errors.Join(wrong...)
}

// checkStatement checks what the provenance says against what there is.
func checkStatement(data []byte, version string, lockData, archive, bill []byte, blobs []file) error {
	var s statement
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("not a provenance statement of neb: %w", err)
	}
	for _, c := range []struct{ what, found, expected string }{
		{"_type", s.Type, statementType},
		{"predicateType", s.PredicateType, predicateType},
		{"buildType", s.Predicate.BuildDefinition.BuildType, buildType},
		{"version", fmt.Sprint(s.Predicate.BuildDefinition.ExternalParameters["version"]), version},
	} {
		if c.found != c.expected {
			return fmt.Errorf("%s: expected %q, found %q", c.what, c.expected, c.found)
		}
	}
	var wrong []error
	differ := func(what string, said map[string]string, content []byte) {
		if d := digestOf(content); !maps.Equal(d, said) {
			wrong = append(wrong, fmt.Errorf("%s: SHA-256 is %s, the provenance says %s", what, d["sha256"], said["sha256"]))
		}
	}
	subjects := map[string]map[string]string{}
	for _, r := range s.Subject {
		subjects[r.Name] = r.Digest
	}
	about := append([]file{{archiveName(version), archive}}, blobs...)
	for i, f := range about {
		if i > 0 {
			f.name = top + f.name
		}
		if subjects[f.name] == nil {
			wrong = append(wrong, fmt.Errorf("says nothing about %s", f.name))
			continue
		}
		differ(f.name, subjects[f.name], f.data)
	}
	if len(s.Subject) != len(about) {
		wrong = append(wrong, fmt.Errorf("expected %d subjects, found %d", len(about), len(s.Subject)))
	}
	locks := 0
	for _, r := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if r.Name == lockName {
			locks++
			if d := digestOf(lockData); !maps.Equal(d, r.Digest) {
				wrong = append(wrong, fmt.Errorf("made with another neb.lock: SHA-256 of the lock here is %s, the provenance says %s; use the neb of release %s",
					d["sha256"], r.Digest["sha256"], version))
			}
		}
	}
	if locks != 1 {
		wrong = append(wrong, fmt.Errorf("expected one neb.lock among the resolved dependencies, found %d", locks))
	}
	if by := s.Predicate.RunDetails.Byproducts; len(by) != 1 || by[0].Name != billName(version) {
		wrong = append(wrong, fmt.Errorf("expected the bill of materials %s as the one by-product", billName(version)))
	} else {
		differ(by[0].Name, by[0].Digest, bill)
	}
	return errors.Join(wrong...)
}

// prefixed puts the file's name before each of several errors.
func prefixed(name string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s: %w", name, err)
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, fmt.Errorf("%s: %w", name, e))
	}
	return errors.Join(out...)
}
