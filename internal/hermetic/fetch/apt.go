package fetch

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// source is one place of the apt configuration: one URI with one suite.
type source struct {
	uri, suite string
	components []string
}

// suites are the names of Debian's releases, by which a mirror of Debian is told from the other repositories
// that a machine may have (those use names or components of their own).
var suites = []string{
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid", "experimental",
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
}

// pockets are the parts of a release beside its main one, and the archive that holds them.
var pockets = map[string]string{
	"":                  lock.Debian,
	"-updates":          lock.Debian,
	"-backports":        lock.Debian,
	"-proposed-updates": lock.Debian,
	"-security":         lock.Security,
	"/updates":          lock.Security, // until Debian 10
}

// archive is the Debian archive that the source is a mirror of, or "" where it is none that neb could use.
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

// aptSources reads sources.list and sources.list.d below root, in apt's order. Files that cannot be read, and
// lines that are not understood, are as if they were not there: a mirror less, no error.
func aptSources(root string) []source {
	dir := filepath.Join(root, "etc/apt")
	names := []string{filepath.Join(dir, "sources.list")}
	more, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	slices.Sort(more)
	names = append(names, more...)
	var all []source
	for _, name := range names {
		read := map[string]func(string) []source{".list": listSources, ".sources": deb822Sources}[filepath.Ext(name)]
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

// deb822Sources reads the form of stanzas: every URI with every suite.
func deb822Sources(text string) []source {
	var all []source
	for _, stanza := range stanzas(text) {
		if slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(stanza["enabled"])) {
			continue
		}
		types := strings.Fields(stanza["types"])
		if !slices.Contains(types, "deb") && !slices.Contains(types, "deb-src") {
			continue
		}
		for _, uri := range strings.Fields(stanza["uris"]) {
			for _, suite := range strings.Fields(stanza["suites"]) {
				all = append(all, source{uri, strings.Trim(suite, "/"), strings.Fields(stanza["components"])})
			}
		}
	}
	return all
}

// stanzas splits a text of "Field: value" lines into its paragraphs, fields by lower-case name. Lines that
// begin with # are comments, lines that begin with a blank go on with the field above.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	var now map[string]string
	field := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n \t")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			now, field = nil, ""
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				now[field] += " " + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				field = ""
				continue
			}
			if now == nil {
				now = map[string]string{}
				all = append(all, now)
			}
			field = strings.ToLower(strings.TrimSpace(name))
			now[field] = strings.TrimSpace(value)
		}
	}
	return all
}
