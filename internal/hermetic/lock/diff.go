package lock

import (
	"cmp"
	"fmt"
	"go/version"
	"maps"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
)

// Change is the difference of one file between two locks.
type Change struct {
	Name, Arch    string
	Emulator      bool   // it belongs to the emulator, which has versions of its own
	Before, After string // versions; "" if the file is not in that lock
	Backwards     bool   // After is an older version than Before
	Content       bool   // the version is the same and the hash differs
}

func (c Change) String() string {
	name := c.Name
	if c.Arch != "" {
		name += " (" + c.Arch + ")"
	}
	if c.Emulator {
		name = PartEmulator + ": " + name
	}
	switch {
	case c.Before == "":
		return fmt.Sprintf("%s: added, %s", name, c.After)
	case c.After == "":
		return fmt.Sprintf("%s: removed, was %s", name, c.Before)
	case c.Backwards:
		return fmt.Sprintf("%s: %s -> %s (DOWNGRADE)", name, c.Before, c.After)
	case c.Content:
		return fmt.Sprintf("%s: %s: content changed", name, c.After)
	}
	return fmt.Sprintf("%s: %s -> %s", name, c.Before, c.After)
}

// Diff returns the differences of two locks, sorted by name.
func Diff(before, after *Lock) []Change {
	type key struct {
		name, arch string
		emulator   bool
	}
	files := func(l *Lock) map[key]File {
		all := map[key]File{}
		for _, f := range append(slices.AppendSeq(l.Series[:len(l.Series):len(l.Series)],
			maps.Values(l.Go.Hosts)), l.Kernel) {
			if f.Name != "" { // an empty lock has a file without a name
				all[key{f.Name, f.Arch, false}] = f
			}
		}
		for _, p := range l.Packages {
			all[key{p.Name, p.Arch, false}] = p.File
		}
		for _, p := range l.Emulator {
			all[key{p.Name, p.Arch, true}] = p.File
		}
		return all
	}
	was, is := files(before), files(after)
	var changes []Change
	for k, b := range was {
		a := is[k]
		if a.Version != b.Version || a.SHA256 != b.SHA256 {
			changes = append(changes, Change{
				Name: k.name, Arch: k.arch, Emulator: k.emulator, Before: b.Version, After: a.Version,
				Backwards: a.Version != "" && older(a, b),
				Content:   a.Version == b.Version,
			})
		}
	}
	for k, a := range is {
		if _, there := was[k]; !there {
			changes = append(changes, Change{Name: k.name, Arch: k.arch, Emulator: k.emulator,
				After: a.Version})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
	})
	return changes
}

// older reports whether a has an older version than b.
func older(a, b File) bool {
	if a.Archive != GoProxy {
		return debian.Compare(a.Version, b.Version) < 0
	}
	goVersion := func(f File) string {
		v, _ := strings.CutPrefix(f.Version, "v0.0.1-")
		v, _, _ = strings.Cut(v, ".linux-")
		return v
	}
	return version.Compare(goVersion(a), goVersion(b)) < 0
}
