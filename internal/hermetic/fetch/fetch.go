// Package fetch downloads files from the mirrors that this machine is configured for, and verifies them.
//
// The mirror that serves a file does not matter: the hash of a package or module, or the signature of an
// index, is verified. So every mirror that may have a file is asked, in this order: NEB_MIRROR, the
// machine's apt configuration, the archive of Debian snapshots.
//
// The package does not decide where files are kept (see store) or which files are needed (see lock and
// resolve).
package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
)

// Snapshots is the archive of Debian snapshots. It holds every file that the Debian archives ever had,
// under the archive's name and a time.
const Snapshots = "https://snapshot.debian.org/archive"

// Mirrors lists where to ask for files, in order. No URL ends in a slash.
type Mirrors struct {
	Archives  map[string][]string // URLs of mirrors, by archive ([lock.Debian], [lock.Security])
	Snapshots string              // the archive of snapshots, or ""
	Proxies   []string            // Go module proxies
	Remotes   []*remote.Remote    // asked first, by SHA-256

	stall time.Duration // how long a mirror may send nothing; 0: [stream.Stall]
}

// OfMachine returns the mirrors that this machine is configured for: those of NEB_MIRROR and GOPROXY and,
// unless only is set, those of the apt configuration below root ("/" except in tests) and the archive of
// snapshots.
func OfMachine(ctx context.Context, root string, only bool) (Mirrors, error) {
	m := Mirrors{Archives: map[string][]string{}, Proxies: proxies(GoProxy(ctx))}
	if err := m.addNamed(os.Getenv("NEB_MIRROR")); err != nil {
		return Mirrors{}, err
	}
	if only {
		if len(m.Archives) == 0 {
			return Mirrors{}, errors.New("--mirror-only needs NEB_MIRROR, which is not set")
		}
		return m, nil
	}
	for _, source := range aptSources(root) {
		if archive := source.archive(); archive != "" {
			m.add(archive, source.uri)
		}
	}
	m.Snapshots = Snapshots
	return m, nil
}

// add appends a mirror of an archive, unless it is already listed.
func (m *Mirrors) add(archive, base string) {
	base = strings.TrimRight(base, "/")
	if !slices.Contains(m.Archives[archive], base) {
		m.Archives[archive] = append(m.Archives[archive], base)
	}
}

// addNamed adds the mirrors of NEB_MIRROR: URLs, separated by blanks or commas. A URL that ends in the name
// of an archive (…/debian, …/debian-security) is a mirror of that archive; any other is the parent of both.
func (m *Mirrors) addNamed(list string) error {
	for _, base := range strings.FieldsFunc(list,
		func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		u, err := url.Parse(base)
		if err != nil || !fetchable(u) {
			return fmt.Errorf("invalid NEB_MIRROR: "+
				"expected URLs that begin with http://, https:// or file://, found %q", Redacted(base))
		}
		base = strings.TrimRight(base, "/")
		named := false
		for _, archive := range []string{lock.Debian, lock.Security} {
			if strings.HasSuffix(base, "/"+archive) {
				m.add(archive, base)
				named = true
			}
		}
		if !named {
			m.add(lock.Debian, base+"/"+lock.Debian)
			m.add(lock.Security, base+"/"+lock.Security)
		}
	}
	return nil
}

// fetchable reports whether neb can read URLs of this kind.
func fetchable(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		return u.Host != ""
	case "file":
		return u.Path != ""
	}
	return false
}

// urls returns where a file may be found, in the order of asking.
func (m Mirrors) urls(f lock.File) []string {
	if f.Archive == lock.GoProxy {
		return under(m.Proxies, f.Path)
	}
	return append(under(m.Archives[f.Archive], f.Path), m.snapshot(f.Archive, f.Snapshot, f.Path)...)
}

// Newest downloads the newest version of a file of a Debian archive: the first of the paths ("dists/…") that
// a mirror, or the snapshot of now, has and for which check returns nil. It fails if the file is larger than
// most bytes.
func (m Mirrors) Newest(ctx context.Context, archive string, paths []string, now time.Time, most int64,
	check func([]byte) error) ([]byte, error) {
	var urls []string
	for _, path := range paths {
		urls = append(urls, under(m.Archives[archive], path)...)
		urls = append(urls, m.snapshot(archive, now, path)...)
	}
	return m.get(ctx, urls, most, check)
}

// snapshot returns where the archive of snapshots has a file. That serves the last snapshot before the time.
func (m Mirrors) snapshot(archive string, at time.Time, path string) []string {
	if m.Snapshots == "" || at.IsZero() {
		return nil
	}
	return under([]string{m.Snapshots}, archive+"/"+at.UTC().Format("20060102T150405Z")+"/"+path)
}

// under joins each base URL with an escaped path.
func under(bases []string, path string) []string {
	var urls []string
	for _, base := range bases {
		urls = append(urls, base+(&url.URL{Path: "/" + path}).EscapedPath())
	}
	return urls
}

// GoProxy returns the machine's GOPROXY: from 'go env' if Go is installed, else from the environment.
func GoProxy(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "go", "env", "GOPROXY")
	cmd.Dir = "/" // outside of any module: its go.mod must not have an effect
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	if out, err := cmd.Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return os.Getenv("GOPROXY")
}

// proxies returns the proxies of a GOPROXY list. Go tries the one after "," only if a proxy lacks a module,
// and the one after "|" after any error. neb always tries the next one, because it verifies every file by
// its hash. "direct" would mean version control, which has no toolchains; "off" ends the list.
func proxies(list string) []string {
	var bases []string
	for _, base := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
		base = strings.TrimRight(strings.TrimSpace(base), "/")
		if base == "off" {
			break
		}
		if u, err := url.Parse(base); err == nil && fetchable(u) {
			bases = append(bases, base)
		}
	}
	return bases
}
