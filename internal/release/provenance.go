package release

import (
	"fmt"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

const home = "https://github.com/nitro-enclaves-bootstrap/neb"

// Types and identifiers of the provenance, explained in docs/releases.md.
const (
	buildType = home + "/blob/main/docs/releases.md#build-type"
	builderID = home + "/blob/main/docs/releases.md#builder"
)

// internal describes the machine that built, as explained in docs/releases.md.
type internal struct {
	Host      string                  `json:"host"`      // Debian's name of its architecture
	Isolation map[string]sandbox.Mode `json:"isolation"` // by "component architecture"
}

// lockName is the name of the lock in the resolved dependencies.
const lockName = "neb.lock"

// statement returns the provenance. It contains no time, so the same source gives the same statement.
func (r Release) statement(l *lock.Lock, blobs []file, modules []module, archive, bill []byte) ([]byte,
	error) {
	s := sign.NewStatement[internal](buildType, builderID)
	s.Subject = append(s.Subject, sign.Resource{Name: archiveName(r.Version), Digest: digestOf(archive)})
	for _, b := range blobs {
		s.Subject = append(s.Subject, sign.Resource{Name: top + b.name, Digest: digestOf(b.data)})
	}

	def := &s.Predicate.BuildDefinition
	def.ExternalParameters = map[string]any{"version": r.Version, "architectures": Architectures(),
		"source": home}
	def.InternalParameters = internal{r.Host, r.isolation()}
	if r.Commit != "" {
		def.ResolvedDependencies = append(def.ResolvedDependencies,
			sign.Resource{URI: "git+" + home, Digest: map[string]string{"gitCommit": r.Commit}})
	}
	def.ResolvedDependencies = append(def.ResolvedDependencies,
		sign.Resource{Name: lockName, Digest: digestOf(r.Lock)})
	files, err := inputs(l, r.Host)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		def.ResolvedDependencies = append(def.ResolvedDependencies, sign.Resource{
			Name: f.Name, URI: packageURL(f), Digest: map[string]string{"sha256": f.SHA256},
			DownloadLocation: SnapshotURL(f),
		})
	}
	for _, m := range modules {
		sum, err := m.dirHash()
		if err != nil {
			return nil, err
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies,
			sign.Resource{Name: m.path, URI: m.purl(), Digest: map[string]string{"dirHash": sum}})
	}
	for _, f := range ownInputs() {
		def.ResolvedDependencies = append(def.ResolvedDependencies,
			sign.Resource{Name: f.name, Digest: digestOf(f.data)})
	}

	s.Predicate.RunDetails.Byproducts = []sign.Resource{{Name: billName(r.Version), Digest: digestOf(bill)}}
	return indented(s)
}

// isolation returns the isolation of each build, by "component architecture".
func (r Release) isolation() map[string]sandbox.Mode {
	how := map[string]sandbox.Mode{}
	for _, rec := range r.Records {
		how[rec.Component+" "+rec.Arch] = rec.Isolation
	}
	return how
}

// packageURL returns the package URL (github.com/package-url/purl-spec) of a file of the lock.
func packageURL(f lock.File) string {
	if f.Archive == lock.GoProxy {
		return modulePURL(f.Name, f.Version)
	}
	return fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", f.Name, escape(f.Version), f.Arch)
}

// modulePURL returns the package URL of a Go module.
func modulePURL(path, version string) string { return "pkg:golang/" + path + "@" + escape(version) }

// escape percent-encodes a version for a package URL: of what Debian's and Go's versions consist of, only
// "+".
func escape(version string) string { return strings.ReplaceAll(version, "+", "%2B") }
