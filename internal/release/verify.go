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
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

// Verified is a release whose files match each other, its provenance and a lock.
type Verified struct {
	Version string
	dir     string
	files   []file // archive, bill of materials, provenance
	blobs   []file
	said    statement // content of the provenance
}

// Verify checks the release whose archive is at path and whose other files are in the same directory: both
// checksum files, exactly the blobs of a release in the archive, and the provenance of exactly these blobs
// and this lock.
//
// It does not check who made the release (see [Verified.Signed]) or whether source and lock make it (see
// [Verified.Compare]).
func Verify(path string, lockData []byte) (*Verified, error) {
	dir, name := filepath.Split(path)
	version, isArchive := strings.CutPrefix(strings.TrimSuffix(name, ".tar.xz"), "enclaves-blobs-")
	if !isArchive || name != archiveName(version) || CheckVersion(version) != nil {
		return nil, fmt.Errorf("%s: expected the archive of a release, enclaves-blobs-VERSION.tar.xz", path)
	}
	names := []string{archiveName(version), billName(version), provenanceName(version)}
	data := map[string][]byte{}
	for _, n := range append([]string{sums[0].name, sums[1].name}, names...) {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: missing: "+
				"expected checksums, bill of materials and provenance next to the archive", filepath.Join(dir,
				n))
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

	v := &Verified{Version: version, dir: dir}
	for _, n := range names {
		v.files = append(v.files, file{n, data[n]})
	}
	// Provenance before archive: with the neb of another release both fail, and the error about the lock is
	// the better one.
	if err := v.readStatement(lockData); err != nil {
		return nil, prefixed(names[2], err)
	}
	var err error
	if v.blobs, err = unpack(data[names[0]]); err != nil {
		return nil, prefixed(name, err)
	}
	if err := v.checkDigests(); err != nil {
		return nil, prefixed(names[2], err)
	}
	return v, nil
}

// Signed checks that the envelope next to the archive is signed by the key and contains the provenance.
func (v *Verified) Signed(key crypto.PublicKey) error {
	path := filepath.Join(v.dir, envelopeName(v.Version))
	envelope, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("provenance is not signed: %w", err)
	}
	statement, err := sign.Open(PayloadType, envelope, key)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Equal(statement, v.files[2].data) {
		return fmt.Errorf("%s: the signed statement differs from %s", path, provenanceName(v.Version))
	}
	return nil
}

// MadeOf checks that the provenance names this git commit. It returns nil if commit is "" (the source is
// not a checkout) or the provenance names none.
func (v *Verified) MadeOf(commit string) error {
	if said := v.commit(); said != "" && commit != "" && said != commit {
		return fmt.Errorf("%s: made of commit %s, the source is at commit %s", v.files[2].name, said, commit)
	}
	return nil
}

// commit returns the git commit that the provenance names, or "".
func (v *Verified) commit() string {
	for _, d := range v.said.Predicate.BuildDefinition.ResolvedDependencies {
		if commit := d.Digest["gitCommit"]; commit != "" {
			return commit
		}
	}
	return ""
}

// Compare compares the release with the one that r would make: each blob, then archive, bill of materials
// and provenance. Host, isolation and commit may differ between builds, so Compare takes them from the
// provenance.
func (v *Verified) Compare(r Release) ([]output.Finding, error) {
	r.Version, r.Commit = v.Version, v.commit()
	said := v.said.Predicate.BuildDefinition.InternalParameters
	r.Host = said.Host
	r.Records = slices.Clone(r.Records)
	for i, rec := range r.Records {
		r.Records[i].Isolation = said.Isolation[rec.Component+" "+rec.Arch]
	}
	if err := r.checkRecords(); err != nil {
		return nil, err
	}
	blobs, err := readBlobs(r.Blobs)
	if err != nil {
		return nil, err
	}
	archive := v.files[0] // unpack checked that pack writes it for v.blobs
	if !slices.EqualFunc(blobs, v.blobs, func(a, b file) bool { return bytes.Equal(a.data, b.data) }) {
		if archive.data, err = pack(blobs); err != nil {
			return nil, err
		}
	}
	l, err := lock.Read(bytes.NewReader(r.Lock))
	if err != nil {
		return nil, err
	}
	documents, err := r.documents(l, blobs, archive.data)
	if err != nil {
		return nil, err
	}
	expected := append(append(blobs, archive), documents...)
	var findings []output.Finding
	for i, f := range slices.Concat(v.blobs, v.files) {
		found := output.Finding{
			Path: f.name, State: output.Same,
			Expected: digestOf(expected[i].data)["sha256"], Found: digestOf(f.data)["sha256"],
		}
		if found.Expected != found.Found {
			found.State = output.Different
		}
		findings = append(findings, found)
	}
	return findings, nil
}

// checkSums checks that a checksum file lists exactly the given files with their digests.
func checkSums(name string, sumsFile []byte, names []string, data map[string][]byte,
	digest func([]byte) []byte) error {
	var wrong []error
	said := map[string]string{}
	for i, line := range strings.Split(strings.TrimSuffix(string(sumsFile), "\n"), "\n") {
		sum, file, ok := strings.Cut(line, "  ")
		if _, twice := said[file]; !ok || twice {
			wrong = append(wrong, fmt.Errorf("%s:%d: expected a digest, "+
				"two spaces and a unique name, found %q", name, i+1, line))
			continue
		}
		said[file] = sum
	}
	for _, n := range names {
		sum, there := said[n]
		found := fmt.Sprintf("%x", digest(data[n]))
		switch {
		case !there:
			wrong = append(wrong, fmt.Errorf("%s: no entry for %s", name, n))
		case sum != found:
			wrong = append(wrong, fmt.Errorf("%s: wrong content: expected digest %s of %s, found %s", n, sum,
				name, found))
		}
		delete(said, n)
	}
	for n := range said {
		wrong = append(wrong, fmt.Errorf("%s: entry %s is not part of this release", name, n))
	}
	return errors.Join(wrong...)
}

// readStatement reads the provenance and checks that neb made it, for this version and this lock.
func (v *Verified) readStatement(lockData []byte) error {
	s := &v.said
	d := json.NewDecoder(bytes.NewReader(v.files[2].data))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return fmt.Errorf("not a provenance statement of neb: %w", err)
	}
	for _, c := range []struct{ what, found, expected string }{
		{"_type", s.Type, statementType},
		{"predicateType", s.PredicateType, predicateType},
		{"buildType", s.Predicate.BuildDefinition.BuildType, buildType},
		{"version", fmt.Sprint(s.Predicate.BuildDefinition.ExternalParameters["version"]), v.Version},
	} {
		if c.found != c.expected {
			return fmt.Errorf("%s: expected %q, found %q", c.what, c.expected, c.found)
		}
	}
	locks := 0
	for _, r := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if r.Name != lockName {
			continue
		}
		locks++
		if d := digestOf(lockData); !maps.Equal(d, r.Digest) {
			return fmt.Errorf("made with another neb.lock: "+
				"expected SHA-256 %s, found %s; use the neb of release %s",
				d["sha256"], r.Digest["sha256"], v.Version)
		}
	}
	if locks != 1 {
		return fmt.Errorf("expected one neb.lock among the resolved dependencies, found %d", locks)
	}
	return nil
}

// checkDigests checks that the provenance has the digests of exactly the archive, its blobs and the bill of
// materials.
func (v *Verified) checkDigests() error {
	version, s := v.Version, &v.said
	archive, bill := v.files[0].data, v.files[1].data
	var wrong []error
	differ := func(what string, said map[string]string, content []byte) {
		if d := digestOf(content); !maps.Equal(d, said) {
			wrong = append(wrong, fmt.Errorf("%s: wrong content: expected SHA-256 %s, found %s", what,
				said["sha256"], d["sha256"]))
		}
	}
	subjects := map[string]map[string]string{}
	for _, r := range s.Subject {
		subjects[r.Name] = r.Digest
	}
	about := append([]file{{archiveName(version), archive}}, v.blobs...)
	for i, f := range about {
		if i > 0 {
			f.name = top + f.name
		}
		if subjects[f.name] == nil {
			wrong = append(wrong, fmt.Errorf("no subject %s", f.name))
			continue
		}
		differ(f.name, subjects[f.name], f.data)
	}
	if len(s.Subject) != len(about) {
		wrong = append(wrong, fmt.Errorf("expected %d subjects, found %d", len(about), len(s.Subject)))
	}
	if by := s.Predicate.RunDetails.Byproducts; len(by) != 1 || by[0].Name != billName(version) {
		wrong = append(wrong, fmt.Errorf("expected one by-product, the bill of materials %s",
			billName(version)))
	} else {
		differ(by[0].Name, by[0].Digest, bill)
	}
	return errors.Join(wrong...)
}

// prefixed adds the file's name to each of several errors.
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
