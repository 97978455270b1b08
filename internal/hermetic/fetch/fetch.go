// Package fetch knows where this machine gets Debian's packages and Go's modules from.
//
// Which mirror serves a file does not matter: what comes is verified by hash (packages, modules) or by signature
// (package indexes). So every mirror that might have a file is worth a question, the nearest first: NEB_MIRROR,
// then the machine's apt configuration, then the archive of Debian snapshots.
package fetch

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// Snapshots is the archive of Debian snapshots: it holds every file that the Debian archives ever had, below
// the archive's name and a time.
const Snapshots = "https://snapshot.debian.org/archive"

// Mirrors is where to ask for files, in the order of asking. All URLs are without a slash at the end.
type Mirrors struct {
	Archives  map[string][]string // by archive ([lock.Debian], [lock.Security]), the URLs of mirrors of it
	Snapshots string              // the archive of snapshots, or ""
	Proxies   []string            // Go module proxies
}

// OfMachine reads what this machine is set up with: NEB_MIRROR, the apt configuration below root ("/" but in
// tests), and Go's GOPROXY.
func OfMachine(ctx context.Context, root string) (Mirrors, error) {
	m := Mirrors{Archives: map[string][]string{}, Snapshots: Snapshots}
	if err := m.addNamed(os.Getenv("NEB_MIRROR")); err != nil {
		return Mirrors{}, err
	}
	for _, source := range aptSources(root) {
		if archive := source.archive(); archive != "" {
			m.add(archive, source.uri)
		}
	}
	m.Proxies = proxies(GoProxy(ctx))
	return m, nil
}

// add appends a mirror of an archive, unless it is there already.
func (m *Mirrors) add(archive, base string) {
	base = strings.TrimRight(base, "/")
	for _, known := range m.Archives[archive] {
		if known == base {
			return
		}
	}
	m.Archives[archive] = append(m.Archives[archive], base)
}

// addNamed adds the mirrors of NEB_MIRROR: URLs, separated by blanks or commas. One that ends in the name of an
// archive (…/debian, …/debian-security) is a mirror of that archive; any other holds both below it, by name.
func (m *Mirrors) addNamed(list string) error {
	for _, base := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		u, err := url.Parse(base)
		if err != nil || !fetchable(u) {
			return fmt.Errorf("NEB_MIRROR: expected URLs that begin with http://, https:// or file://, found %q", Redacted(base))
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

// URLs are the places where a file may be found, in the order of asking.
func (m Mirrors) URLs(f lock.File) []string {
	if f.Archive == lock.GoProxy {
		return under(m.Proxies, f.Path)
	}
	return append(under(m.Archives[f.Archive], f.Path), m.snapshot(f.Archive, f.Snapshot, f.Path)...)
}

// Newest are the places where the newest version of a file of a Debian archive may be found ("dists/…"): the
// mirrors, and the snapshot of now.
func (m Mirrors) Newest(archive, path string, now time.Time) []string {
	return append(under(m.Archives[archive], path), m.snapshot(archive, now, path)...)
}

// snapshot is where the archive of snapshots has a file. It answers with the last snapshot before the time.
func (m Mirrors) snapshot(archive string, at time.Time, path string) []string {
	if m.Snapshots == "" || at.IsZero() {
		return nil
	}
	return under([]string{m.Snapshots}, archive+"/"+at.UTC().Format("20060102T150405Z")+"/"+path)
}

// under joins each base with a path, escaped as a URL wants it.
func under(bases []string, path string) []string {
	var urls []string
	for _, base := range bases {
		urls = append(urls, base+(&url.URL{Path: "/" + path}).EscapedPath())
	}
	return urls
}

// GoProxy is the machine's GOPROXY: what its Go says, else the variable.
func GoProxy(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "go", "env", "GOPROXY")
	cmd.Dir = "/" // no go.mod or go.work may have a say
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	if out, err := cmd.Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return os.Getenv("GOPROXY")
}

// proxies are the proxies of a GOPROXY list. Go tries the next one after "," only where a proxy lacks a
// module, and after "|" after any error; here every file has its hash, so the next one is always tried.
// "direct" would mean version control, which has no toolchains; "off" ends the list.
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
