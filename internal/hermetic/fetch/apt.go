package fetch

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// source is one entry of the apt configuration: one URI with one suite.
type source struct {
	uri, suite string
	components []string
}

// suites are the names of Debian's releases. They distinguish a mirror of Debian from other repositories,
// which use suites or components of their own.
var suites = []string{
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid", "experimental",
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
}

// pockets are the suffixes of suites, with the archive that holds them.
var pockets = map[string]string{
	"":                  lock.Debian,
	"-updates":          lock.Debian,
	"-backports":        lock.Debian,
	"-proposed-updates": lock.Debian,
	"-security":         lock.Security,
	"/updates":          lock.Security, // until Debian 10
}

// archive returns the Debian archive that the source mirrors, or "" if neb cannot use it.
func (s source) archive() string {
	u, err := url.Parse(s.uri)
	if err != nil || !fetchable(u) || !slices.Contains(s.components, "main") {
		return ""
	}
	for pocket, archive := range pockets {
		if name, ok := strings.CutSuffix(s.suite, pocket); ok && slices.Contains(suites, name) {
			return archive
		}
	}
	return ""
}

// aptSources reads sources.list and sources.list.d below root, in apt's order. It ignores files that it
// cannot read and lines that it cannot parse: that only means fewer mirrors.
func aptSources(root string) []source {
	dir := filepath.Join(root, "etc/apt")
	names := []string{filepath.Join(dir, "sources.list")}
	more, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	slices.Sort(more)
	names = append(names, more...)
	var all []source
	for _, name := range names {
		read := map[string]func(string) []source{".list": listSources,
			".sources": deb822Sources}[filepath.Ext(name)]
		if read == nil {
			continue
		}
		if text, err := os.ReadFile(name); err == nil {
			all = append(all, read(string(text))...)
		}
	}
	return all
}

// listSources reads the one-line form: deb [option=value …] URI SUITE COMPONENT…
func listSources(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" && fields[0] != "deb-src" {
			continue
		}
		fields = fields[1:]
		if len(fields) > 0 && strings.HasPrefix(fields[0], "[") {
			end := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "]") })
			if end < 0 {
				continue
			}
			fields = fields[end+1:]
		}
		if len(fields) < 2 {
			continue
		}
		all = append(all, source{fields[0], strings.Trim(fields[1], "/"), fields[2:]})
	}
	return all
}

// deb822Sources reads the form of stanzas: every URI with every suite. An error in the file ends the list.
func deb822Sources(text string) []source {
	var all []source
	_ = debian.Each(strings.NewReader(text), func(s debian.Stanza) error {
		fields := func(name string) []string {
			for key, value := range s {
				if strings.EqualFold(key, name) {
					return strings.Fields(value)
				}
			}
			return nil
		}
		if enabled := fields("Enabled"); len(enabled) > 0 &&
			slices.Contains(disabled, strings.ToLower(enabled[0])) {
			return nil
		}
		types := fields("Types")
		if !slices.Contains(types, "deb") && !slices.Contains(types, "deb-src") {
			return nil
		}
		for _, uri := range fields("URIs") {
			for _, suite := range fields("Suites") {
				all = append(all, source{uri, strings.Trim(suite, "/"), fields("Components")})
			}
		}
		return nil
	})
	return all
}

// disabled are the values of the field Enabled that apt takes for no.
var disabled = []string{"no", "false", "without", "off", "disable"}
