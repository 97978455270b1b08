package release

import (
	"debug/buildinfo"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// module is a Go module that is linked into a blob.
type module struct {
	path, version string
	sum           string   // as in go.sum: "h1:…"
	licence       string   // SPDX expression
	blobs         []string // paths of the blobs that contain it
}

func (m module) name() string { return m.path + "@" + m.version }
func (m module) purl() string { return modulePURL(m.path, m.version) }

// dirHash returns the module's sum in hexadecimal digits, as attestations write it.
func (m module) dirHash() (string, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.sum, "h1:"))
	if err != nil || !strings.HasPrefix(m.sum, "h1:") {
		return "", fmt.Errorf("Go module %s: expected a sum h1:…, found %q", m.name(), m.sum)
	}
	return hex.EncodeToString(raw), nil
}

// licenceTable holds the SPDX expressions of Go modules, by "path@version". internal/tools/notices
// generates it.
//
//go:embed licences.json
var licenceTable []byte

// modules returns the modules in the Go blobs, from their build information, sorted.
func (r Release) modules() ([]module, error) {
	var licences map[string]string
	if err := json.Unmarshal(licenceTable, &licences); err != nil {
		return nil, fmt.Errorf("licences.json: %w", err)
	}
	byName := map[string]*module{}
	for _, b := range Blobs() {
		if b.Name != "init" && b.Name != "linuxkit" {
			continue
		}
		path := filepath.Join(r.Blobs, filepath.FromSlash(b.Path()))
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: no Go build information: %w", path, err)
		}
		for _, d := range info.Deps {
			if d.Replace != nil {
				return nil, fmt.Errorf("%s: module %s is replaced by %s: "+
					"a release must use published modules",
					path, d.Path, d.Replace.Path)
			}
			m := module{path: d.Path, version: d.Version, sum: d.Sum, licence: licences[d.Path+"@"+d.Version]}
			if m.licence == "" {
				return nil, fmt.Errorf("%s: unknown licence of Go module %s: run 'make notices'", path,
					m.name())
			}
			if byName[m.name()] == nil {
				byName[m.name()] = &m
			}
			byName[m.name()].blobs = append(byName[m.name()].blobs, b.Path())
		}
	}
	var modules []module
	for _, m := range byName {
		modules = append(modules, *m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.name(), b.name()) })
	return modules, nil
}
