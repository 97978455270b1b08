package release

import (
	"bytes"
	"crypto"
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

// Verified is a release whose files match its checksums, and its provenance a lock.
type Verified struct {
	Version string
	dir     string
	files   []file // archive, bill of materials, provenance
	blobs   []file
	said    sign.Statement[internal] // content of the provenance
}

// Verify checks the release whose archive is at path and whose other files are in the same directory: the
// checksums, that the archive is one of blobs, and that the provenance names this version and this lock.
//
// It does not check who made the release (see [Verified.Signed]) or whether source and lock make it (see
// [Verified.Compare], which also compares the documents).
func Verify(path string, lockData []byte) (*Verified, error) {
	dir, name := filepath.Split(path)
	version, isArchive := strings.CutPrefix(strings.TrimSuffix(name, ".tar.xz"), "enclaves-blobs-")
	if !isArchive || name != archiveName(version) || CheckVersion(version) != nil {
		return nil, fmt.Errorf("%s: expected the archive of a release, enclaves-blobs-VERSION.tar.xz", path)
	}
	v := &Verified{Version: version, dir: dir}
	for _, n := range []string{archiveName(version), billName(version), provenanceName(version), sumsName} {
		data, err := os.ReadFile(filepath.Join(dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: missing: expected checksums, bill of materials and provenance "+
				"next to the archive", filepath.Join(dir, n))
		}
		if err != nil {
			return nil, err
		}
		v.files = append(v.files, file{n, data})
	}
	listed := v.files[3].data
	v.files = v.files[:3]
	if expected := sumsOf(v.files); !bytes.Equal(listed, expected) {
		return nil, fmt.Errorf("%s does not match the files beside it, which have these sums:\n%s",
			filepath.Join(dir, sumsName), expected)
	}
	// Provenance before archive: with the neb of another release both fail, and the error about the lock is
	// the better one.
	if err := v.readStatement(lockData); err != nil {
		return nil, fmt.Errorf("%s: %w", v.files[2].name, err)
	}
	var err error
	if v.blobs, err = unpack(v.files[0].data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
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
	statement, err := sign.Open(sign.StatementType, envelope, key)
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
		return fmt.Errorf("%s: built from commit %s, the source is at commit %s", v.files[2].name, said,
			commit)
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

// readStatement reads the provenance and checks that neb made it, for this version and this lock.
func (v *Verified) readStatement(lockData []byte) error {
	var err error
	if v.said, err = sign.ParseStatement[internal](buildType, v.files[2].data); err != nil {
		return err
	}
	def := v.said.Predicate.BuildDefinition
	if found := fmt.Sprint(def.ExternalParameters["version"]); found != v.Version {
		return fmt.Errorf("version: expected %q, found %q", v.Version, found)
	}
	locks := 0
	for _, r := range def.ResolvedDependencies {
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
