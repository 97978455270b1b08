// Package release makes and verifies releases of the blobs: an archive in the layout of nitro-cli's
// packages, checksums, a bill of materials (CycloneDX) and SLSA provenance. It does not compile anything
// itself (see component).
//
// A release depends only on the blobs, the lock, the source, the architecture of the host and the
// isolation, so a release made twice is the same, byte for byte.
package release

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Blob is one file of the archive.
type Blob struct {
	Arch    string
	Name    string      // in the directory of its architecture
	Mode    fs.FileMode // permission bits
	Licence string      // SPDX expression
}

// Path returns the blob's path in an output directory: "x86_64/bzImage".
func (b Blob) Path() string { return b.Arch + "/" + b.Name }

// terms holds the licence and the mode of the files of a component.
var terms = map[string]struct {
	licence string
	mode    fs.FileMode
}{
	"kernel":   {"GPL-2.0-only WITH Linux-syscall-note", 0o644},
	"init":     {"Apache-2.0", 0o755},
	"linuxkit": {"Apache-2.0", 0o755},
}

// Architectures returns the architectures of a release, in the order of the archive.
func Architectures() []string { return slices.Sorted(slices.Values(component.Archs)) }

// Blobs returns the blobs of a release, in the order of the archive.
func Blobs() []Blob {
	var blobs []Blob
	for _, arch := range Architectures() {
		for _, name := range component.Names {
			for _, f := range component.Files(name, arch) {
				blobs = append(blobs, Blob{arch, f, terms[name].mode, terms[name].licence})
			}
		}
	}
	slices.SortFunc(blobs, func(a, b Blob) int { return strings.Compare(a.Path(), b.Path()) })
	return blobs
}

// Release is the input of a release.
type Release struct {
	Version string // "1.2.0"
	Blobs   string // output directory of the build, with x86_64/bzImage and so on
	Lock    []byte // content of neb.lock
	Host    string // Debian's name of the host's architecture: "amd64" or "arm64"
	Commit  string // git commit of the source in hexadecimal digits; "" if the source is not a checkout
	// Records holds the inputs and the isolation of each component.
	Records []component.Record
	// KernelSource is the kernel source of the lock. The release contains a copy, as the kernel's licence
	// requires. No checksum file lists it, because the lock and the provenance have its hash. "" leaves it
	// out.
	KernelSource string
	// Key signs the provenance; nil leaves it unsigned. No checksum file lists the envelope, because it is
	// signed.
	Key crypto.Signer
}

// isolations lists the isolations that a release may be built in. [sandbox.Chroot] enforces too little.
var isolations = []sandbox.Mode{sandbox.Namespaces, sandbox.UserNamespaces}

// Names of the files of a release.
func archiveName(version string) string    { return "enclaves-blobs-" + version + ".tar.xz" }
func billName(version string) string       { return "enclaves-blobs-" + version + ".cdx.json" }
func provenanceName(version string) string { return "enclaves-blobs-" + version + ".provenance.json" }
func envelopeName(version string) string   { return "enclaves-blobs-" + version + ".dsse.json" }

// sumsName is the file with the SHA-256 of the others.
const sumsName = "SHA256SUMS"

var versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

// CheckVersion validates a version: three numbers and, for a pre-release, a hyphen and a name ("1.2.0-rc.1").
func CheckVersion(version string) error {
	if !versionForm.MatchString(version) {
		return fmt.Errorf("invalid version %q: "+
			"expected three numbers and an optional name, as in 1.2.0 or 1.2.0-rc.1", version)
	}
	return nil
}

// Make creates dir atomically with the release, and returns the names of its files.
//
// It fails if a blob is missing or was built in [sandbox.Chroot], if the licence of a Go module is unknown,
// or if the kernel source is not that of the lock.
func (r Release) Make(ctx context.Context, dir string) ([]string, error) {
	l, err := lock.Read(bytes.NewReader(r.Lock))
	if err != nil {
		return nil, err
	}
	if err := r.checkRecords(); err != nil {
		return nil, err
	}
	blobs, err := readBlobs(r.Blobs)
	if err != nil {
		return nil, err
	}
	archive, err := pack(blobs)
	if err != nil {
		return nil, err
	}
	documents, err := r.documents(l, blobs, archive)
	if err != nil {
		return nil, err
	}
	files := append([]file{{archiveName(r.Version), archive}}, documents...)
	files = append(files, file{sumsName, sumsOf(files)})
	if r.Key != nil {
		sealed, err := sign.Seal(sign.StatementType, documents[1].data, r.Key)
		if err != nil {
			return nil, err
		}
		envelope, err := indented(sealed)
		if err != nil {
			return nil, err
		}
		files = append(files, file{envelopeName(r.Version), envelope})
	}

	dir = filepath.Clean(dir) // with a trailing slash Dir would return dir itself
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	var names []string
	for _, f := range files {
		if err := tree.WriteFile(filepath.Join(work, f.name), 0o644, bytes.NewReader(f.data)); err != nil {
			return nil, err
		}
		names = append(names, f.name)
	}
	if r.KernelSource != "" {
		name := path.Base(l.Kernel.Path)
		names = append(names, name)
		if err := copySource(ctx, r.KernelSource, filepath.Join(work, name), l.Kernel); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return nil, err
	}
	return names, os.Rename(work, dir)
}

// documents returns the bill of materials and the provenance of blobs, which are in the order of [Blobs],
// and of their archive.
func (r Release) documents(l *lock.Lock, blobs []file, archive []byte) ([]file, error) {
	modules, err := r.modules()
	if err != nil {
		return nil, err
	}
	bill, err := r.bill(l, blobs, modules)
	if err != nil {
		return nil, err
	}
	statement, err := r.statement(l, blobs, modules, archive, bill)
	return []file{{billName(r.Version), bill}, {provenanceName(r.Version), statement}}, err
}

// CheckSource checks that lock, fragments and patches in dir are those embedded in this binary. A release
// names the commit of the source, so its build must not use other files.
func CheckSource(dir string, lockData []byte) error {
	var wrong []error
	for _, f := range append([]file{{lockName, lockData}}, ownInputs()...) {
		path := filepath.Join(dir, filepath.FromSlash(f.name))
		data, err := os.ReadFile(path)
		switch {
		case err != nil:
			wrong = append(wrong, err)
		case !bytes.Equal(data, f.data):
			wrong = append(wrong, fmt.Errorf("%s: differs from the copy embedded in this binary: "+
				"use the neb of this source (go run ./cmd/neb)", path))
		}
	}
	return errors.Join(wrong...)
}

// checkRecords checks that every component has a record, and that its isolation is one for a release.
func (r Release) checkRecords() error {
	for _, arch := range Architectures() {
		for _, name := range component.Names {
			i := slices.IndexFunc(r.Records,
				func(rec component.Record) bool { return rec.Component == name && rec.Arch == arch })
			if i < 0 {
				return fmt.Errorf("%s %s: no record of its build", name, arch)
			}
			if mode := r.Records[i].Isolation; !slices.Contains(isolations, mode) {
				return fmt.Errorf("%s %s: built in isolation %q, expected %q or %q: "+
					"build on a machine that allows namespaces, with an empty store",
					name, arch, mode, isolations[0], isolations[1])
			}
		}
	}
	return nil
}

// saysPCR1 matches the line that a section of the changelog must have: "PCR1: changed: ", "PCR1: unchanged:
// " or "PCR1: new: " and a reason.
var saysPCR1 = regexp.MustCompile(`(?m)^PCR1: (changed|unchanged|new): \S`)

// CheckChangelog checks that the changelog has a section on the version ("## 1.2.0", optionally with a
// date) which says whether and why PCR1 changed, for users who pin it.
func CheckChangelog(text, version string) error {
	_, after, found := strings.Cut("\n"+text, "\n## "+version)
	if !found || after != "" && !strings.ContainsAny(after[:1], " \n") {
		return fmt.Errorf("CHANGELOG.md: no section \"## %s\"", version)
	}
	section, _, _ := strings.Cut(after, "\n## ")
	if !saysPCR1.MatchString(section) {
		return fmt.Errorf("CHANGELOG.md: section %s does not say whether PCR1 changed: "+
			"expected a line \"PCR1: changed: …\", \"PCR1: unchanged: …\" or \"PCR1: new: …\"", version)
	}
	return nil
}

// file is one file of a release, in memory: all together have some tens of megabytes.
type file struct {
	name string
	data []byte
}

// copySource copies a file that must be the locked one.
func copySource(ctx context.Context, from, to string, locked lock.File) error {
	if err := tree.CopyFile(ctx, from, to, 0o644); err != nil {
		return err
	}
	found, _, err := stream.SHA256(ctx, to)
	if err == nil && found != locked.SHA256 {
		err = fmt.Errorf("%s: wrong content: expected SHA-256 %s of %s in neb.lock, found %s", from,
			locked.SHA256, locked.Path, found)
	}
	return err
}

// readBlobs reads the blobs of a build from dir, in the order of [Blobs].
func readBlobs(dir string) ([]file, error) {
	var files []file
	for _, b := range Blobs() {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(b.Path())))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %s is missing: run 'neb build --arch x86_64,aarch64' first", dir,
				b.Path())
		}
		if err != nil {
			return nil, err
		}
		files = append(files, file{b.Path(), data})
	}
	return files, nil
}

// sumsOf returns a checksum file in the format of sha256sum(1).
func sumsOf(files []file) []byte {
	var b bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&b, "%s  %s\n", digestOf(f.data)["sha256"], f.name)
	}
	return b.Bytes()
}

func digestOf(data []byte) map[string]string {
	return map[string]string{"sha256": fmt.Sprintf("%x", sha256.Sum256(data))}
}

// SnapshotURL returns where the archive of Debian snapshots has a file of the lock, or "".
func SnapshotURL(f lock.File) string {
	if f.Snapshot.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s/%s/%s/%s", fetch.Snapshots, f.Archive, f.Snapshot.UTC().Format("20060102T150405Z"),
		f.Path)
}

// inputs returns the files of the lock that are inputs of a release built on the host.
func inputs(l *lock.Lock, host string) ([]lock.File, error) {
	packages, err := l.Files(host, lock.Base, lock.GCCx86_64, lock.GCCaarch64)
	if err != nil {
		return nil, err
	}
	return append([]lock.File{l.Kernel, l.Go.Hosts[host]}, packages...), nil
}

// ownInputs returns the files of the source tree that are inputs of a kernel.
func ownInputs() []file {
	var files []file
	seen := map[string]bool{}
	for _, arch := range Architectures() {
		for _, f := range kernel.Fragments(arch) {
			if !seen[f.Name] {
				seen[f.Name] = true
				files = append(files, file{"kernel/fragments/" + f.Name, []byte(f.Text)})
			}
		}
	}
	for _, p := range kernel.Patches() {
		files = append(files, file{"kernel/patches/" + p.Name, []byte(p.Text)})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files
}

// indented returns v as indented JSON with a line break at the end.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
