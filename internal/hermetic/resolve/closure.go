package resolve

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// unneeded lists dependencies that are left out because no build uses them; each would add megabytes to a
// first build. The names of native packages without gcc's version stand for those with it and for those of
// the cross compilers (…-arm64-cross) too.
var unneeded = []struct {
	of, needs string
	why       string
}{
	{"libgcc-dev", "libasan8", "address sanitizer of user programs: -fsanitize=address"},
	{"libgcc-dev", "libhwasan0", "the same with hardware tags"},
	{"libgcc-dev", "liblsan0", "leak sanitizer: -fsanitize=leak"},
	{"libgcc-dev", "libtsan2", "thread sanitizer: -fsanitize=thread"},
	{"libgcc-dev", "libubsan1", "undefined behaviour sanitizer; the kernel brings its own"},
	{"libgcc-dev", "libitm1", "transactional memory: -fgnu-tm"},
	{"libgcc-dev", "libgomp1", "OpenMP: -fopenmp"},
	{"libgcc-dev", "libquadmath0", "Fortran's and C's 128-bit floats"},
	{"golang-" + lock.OtherGoVersion + "-go", "binutils-gold", "linking with C"},
	{"binutils", "libgprofng0", "the profiler gprofng"},
	{"qemu-system-x86", "qemu-system-common",
		"helpers and modules; nothing that a machine here has is in one"},
	{"qemu-system-arm", "qemu-system-common", "the same"},
	{"qemu-system-x86", "seabios", "firmware; the machine boots with qboot"},
	{"qemu-system-arm", "seabios", "the same"},
	{"libibverbs1", "adduser", "for its maintainer script"},
	{"libsasl2-2", "libsasl2-modules-db", "plugins of SASL, for VNC"},
	{"libssl3t64", "openssl-provider-legacy", "ciphers that nothing here uses"},
	{"qemu-system-x86", "ipxe-qemu", "firmware of network cards"},
	{"qemu-system-arm", "ipxe-qemu", "the same"},
}

// native returns the name of a package of a cross compiler without its target, and that of gcc's library
// without its version.
func native(name string) string {
	for _, target := range []string{"-amd64-cross", "-arm64-cross"} {
		name = strings.TrimSuffix(name, target)
	}
	return gccLibrary.ReplaceAllString(name, "libgcc-dev")
}

var gccLibrary = regexp.MustCompile(`^libgcc-[0-9]+-dev$`)

// universe holds all packages that are available for a host.
type universe struct {
	host     string
	part     string                  // of the lock
	suites   []place                 // in order of preference
	byName   map[string][]*candidate // in order of preference
	provided map[string][]provider
	chosen   map[string]*candidate
}

// provider is a package that provides another, with a version or, if that is "", without.
type provider struct {
	*candidate
	version string
}

func newUniverse(host, part string, suites []place) *universe {
	return &universe{
		host: host, part: part, suites: suites,
		byName: map[string][]*candidate{}, provided: map[string][]provider{}, chosen: map[string]*candidate{},
	}
}

func (u *universe) add(c *candidate) {
	list := append(u.byName[c.Name], c)
	slices.SortStableFunc(list, func(a, b *candidate) int {
		return cmp.Or(
			cmp.Compare(slices.Index(u.suites, a.place), slices.Index(u.suites, b.place)),
			debian.Compare(b.Version, a.Version))
	})
	u.byName[c.Name] = list
	for _, group := range c.provides {
		for _, p := range group {
			u.provided[p.Name] = append(u.provided[p.Name], provider{c, p.Version})
		}
	}
}

// solve chooses the roots and their dependencies, and adds them to packages with their sets.
//
// A group of alternatives is met by a package that is already chosen, else by the first alternative that
// exists, else by the package that provides it and is first by name. solve does not revise a choice: if
// choices contradict each other it fails, and the table of roots can name another alternative.
func (u *universe) solve(packages map[string]*lock.Package) error {
	var queue []*candidate
	choose := func(c *candidate) {
		if u.chosen[c.Name] == nil {
			u.chosen[c.Name] = c
			queue = append(queue, c)
		}
	}
	for _, root := range lock.RootsOf(u.part, u.host) {
		for _, name := range root.Packages {
			if len(u.byName[name]) == 0 {
				return fmt.Errorf("set %s: package %s not found in any suite (%s)", root.Set, name, root.Why)
			}
			choose(u.byName[name][0])
		}
	}
	for len(queue) > 0 {
		c := queue[0]
		queue = queue[1:]
		for _, group := range c.depends {
			if u.skipped(c, group) || u.met(group) != nil {
				continue
			}
			best := u.best(group)
			if best == nil {
				return fmt.Errorf("%s %s depends on %s: not found in any suite", c.Name, c.Version,
					alternatives(group))
			}
			if before := u.chosen[best.Name]; before != nil {
				return fmt.Errorf("%s %s depends on %s, which contradicts the earlier choice of %s %s",
					c.Name, c.Version, alternatives(group), before.Name, before.Version)
			}
			choose(best)
		}
	}
	if err := u.conflicting(); err != nil {
		return err
	}
	return u.collect(packages)
}

// skipped reports whether a dependency is left out on purpose.
func (u *universe) skipped(c *candidate, group []debian.Relation) bool {
	for _, u := range unneeded {
		if u.of == native(c.Name) && u.needs == native(group[0].Name) {
			return true
		}
	}
	return false
}

func alternatives(group []debian.Relation) string {
	var names []string
	for _, r := range group {
		names = append(names, r.String())
	}
	return strings.Join(names, " | ")
}

// forHost reports whether a package of the host's architecture can meet a relation.
func (u *universe) forHost(r debian.Relation) bool {
	return r.Arch == "" || r.Arch == "any" || r.Arch == u.host
}

// met returns the chosen package that meets one of the alternatives, or nil.
func (u *universe) met(group []debian.Relation) *candidate {
	for _, r := range group {
		if !u.forHost(r) {
			continue
		}
		if c := u.chosen[r.Name]; c != nil && r.Met(c.Version) {
			return c
		}
		for _, p := range u.providers(r) {
			if u.chosen[p.Name] == p.candidate {
				return p.candidate
			}
		}
	}
	return nil
}

// best returns the package to choose for a group that no chosen package meets, or nil.
func (u *universe) best(group []debian.Relation) *candidate {
	for _, r := range group {
		if !u.forHost(r) {
			continue
		}
		for _, c := range u.byName[r.Name] {
			if r.Met(c.Version) {
				return c
			}
		}
		if providers := u.providers(r); len(providers) > 0 {
			return providers[0].candidate
		}
	}
	return nil
}

// providers returns the packages that provide what a relation names, sorted by name. Only a package that
// provides a version meets a relation with a version.
func (u *universe) providers(r debian.Relation) []provider {
	var all []provider
	for _, p := range u.provided[r.Name] {
		if r.Op == "" || p.version != "" && r.Met(p.version) {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b provider) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// conflicting returns an error if chosen packages conflict with each other.
func (u *universe) conflicting() error {
	for _, name := range slices.Sorted(maps.Keys(u.chosen)) {
		c := u.chosen[name]
		for _, group := range c.conflicts {
			for _, r := range group {
				if other := u.met([]debian.Relation{r}); other != nil && other != c {
					return fmt.Errorf("%s %s conflicts with %s, which the chosen %s %s meets",
						c.Name, c.Version, r, other.Name, other.Version)
				}
			}
		}
	}
	return nil
}

// collect follows the dependencies from the roots of every set and adds the set to each package.
func (u *universe) collect(packages map[string]*lock.Package) error {
	for _, set := range lock.Sets {
		seen := map[*candidate]bool{}
		var visit func(c *candidate)
		visit = func(c *candidate) {
			if seen[c] {
				return
			}
			seen[c] = true
			key := c.Name + " " + c.Arch
			p := packages[key]
			if p == nil {
				p = &lock.Package{File: c.File, Sets: map[string][]string{}}
				packages[key] = p
			}
			p.Sets[u.host] = append(p.Sets[u.host], set)
			for _, group := range c.depends {
				if u.skipped(c, group) {
					continue
				}
				need := u.met(group)
				if need != c && !slices.Contains(p.Needs, need.Name) {
					p.Needs = append(p.Needs, need.Name)
				}
				visit(need)
			}
		}
		for _, root := range lock.RootsOf(u.part, u.host) {
			for _, name := range root.Packages {
				if root.Set == set {
					visit(u.chosen[name])
				}
			}
		}
	}
	// A package for all architectures is listed once, so it must be the same for both hosts.
	for _, c := range u.chosen {
		if p := packages[c.Name+" "+c.Arch]; p != nil && p.SHA256 != c.SHA256 {
			return fmt.Errorf("%s: the indexes of the hosts differ: %s and %s", c.Name, p.Path, c.Path)
		}
	}
	return nil
}
