package resolve

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// unneeded are dependencies that are left out: what no build loads or links. Each costs megabytes of every first
// build. Names are those of native packages and stand for the cross compilers' (…-arm64-cross) too.
var unneeded = []struct {
	of, needs string
	why       string
}{
	{"libgcc-14-dev", "libasan8", "address sanitizer of user programs: -fsanitize=address"},
	{"libgcc-14-dev", "libhwasan0", "the same with hardware tags"},
	{"libgcc-14-dev", "liblsan0", "leak sanitizer: -fsanitize=leak"},
	{"libgcc-14-dev", "libtsan2", "thread sanitizer: -fsanitize=thread"},
	{"libgcc-14-dev", "libubsan1", "undefined behaviour sanitizer; the kernel brings its own"},
	{"libgcc-14-dev", "libitm1", "transactional memory: -fgnu-tm"},
	{"libgcc-14-dev", "libgomp1", "OpenMP: -fopenmp"},
	{"libgcc-14-dev", "libquadmath0", "Fortran's and C's 128-bit floats"},
	{"binutils", "libgprofng0", "the profiler gprofng"},
	{"qemu-system-x86", "qemu-system-common", "helpers and modules; nothing that a machine here has is in one"},
	{"qemu-system-arm", "qemu-system-common", "the same"},
	{"qemu-system-x86", "seabios", "firmware; the machine boots with qboot"},
	{"qemu-system-arm", "seabios", "the same"},
	{"libibverbs1", "adduser", "for its maintainer script"},
	{"libsasl2-2", "libsasl2-modules-db", "plugins of SASL, for VNC"},
	{"libssl3t64", "openssl-provider-legacy", "ciphers that nothing here uses"},
	{"qemu-system-x86", "ipxe-qemu", "firmware of network cards"},
	{"qemu-system-arm", "ipxe-qemu", "the same"},
}

// native is the name that a package of a cross compiler has without its target.
func native(name string) string {
	for _, target := range []string{"-amd64-cross", "-arm64-cross"} {
		name = strings.TrimSuffix(name, target)
	}
	return name
}

// universe is all packages that one host could have.
type universe struct {
	host     string
	part     string                  // of the lock
	suites   []place                 // the best first
	byName   map[string][]*candidate // the best first
	provided map[string][]provider
	chosen   map[string]*candidate
}

// provider is a package that stands in for another, of a version or ("") of none.
type provider struct {
	*candidate
	version string
}

func newUniverse(host, part string, suites []place) *universe {
	return &universe{host: host, part: part, suites: suites, byName: map[string][]*candidate{}, provided: map[string][]provider{}, chosen: map[string]*candidate{}}
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

// solve chooses the roots and all that they depend on, and adds them to packages with the sets they are in.
//
// Every group of alternatives is met by what is chosen already, else by the first alternative that exists, else
// by the package that provides it, the first by name. There is no going back on a choice: where the choices do
// not fit together it says so, and the table of roots can name another alternative.
func (u *universe) solve(packages map[string]*lock.Package) error {
	var queue []*candidate
	choose := func(c *candidate) {
		if u.chosen[c.Name] == nil {
			u.chosen[c.Name] = c
			queue = append(queue, c)
		}
	}
	for _, root := range lock.Roots {
		if root.Part() != u.part || root.Host != "" && root.Host != u.host {
			continue
		}
		for _, name := range root.Packages {
			if len(u.byName[name]) == 0 {
				return fmt.Errorf("set %s: no suite has the package %s (%s)", root.Set, name, root.Why)
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
				return fmt.Errorf("%s %s depends on %s, which no suite has", c.Name, c.Version, alternatives(group))
			}
			if before := u.chosen[best.Name]; before != nil {
				return fmt.Errorf("%s %s depends on %s, and %s %s is chosen already", c.Name, c.Version, alternatives(group), before.Name, before.Version)
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

// forHost reports whether a relation asks for a package of the host's architecture.
func (u *universe) forHost(r debian.Relation) bool {
	return r.Arch == "" || r.Arch == "any" || r.Arch == u.host
}

// met returns the chosen package that meets one of the alternatives, if there is one.
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

// best returns the package to choose for a group that nothing chosen meets.
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

// providers are the packages that provide what a relation asks for, by name. A relation with a version is only
// met by one that provides a version.
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

// conflicting says which of the chosen packages cannot stand beside each other.
func (u *universe) conflicting() error {
	for _, name := range slices.Sorted(maps.Keys(u.chosen)) {
		c := u.chosen[name]
		for _, group := range c.conflicts {
			for _, r := range group {
				if other := u.met([]debian.Relation{r}); other != nil && other != c {
					return fmt.Errorf("%s %s conflicts with %s, and %s %s is chosen", c.Name, c.Version, r, other.Name, other.Version)
				}
			}
		}
	}
	return nil
}

// collect follows the dependencies from the roots of every set and notes what belongs to it.
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
		for _, root := range lock.Roots {
			if root.Set != set || root.Part() != u.part || root.Host != "" && root.Host != u.host {
				continue
			}
			for _, name := range root.Packages {
				visit(u.chosen[name])
			}
		}
	}
	// A package for all architectures stands once for both hosts: it has to be the same one.
	for _, c := range u.chosen {
		if p := packages[c.Name+" "+c.Arch]; p != nil && p.SHA256 != c.SHA256 {
			return fmt.Errorf("%s: the indexes of the hosts name two files: %s and %s", c.Name, p.Path, c.Path)
		}
	}
	return nil
}
