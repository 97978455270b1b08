// Package resolve makes a new lock from signed package indexes of Debian and from the toolchains of Go's
// module proxies. It is the only source of new versions: builds read the lock and never an index.
package resolve

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Names in Debian's archives.
const (
	component     = "main"
	defaultKernel = lock.KernelSource + kernel.DefaultSeries
)

// backported lists the source packages whose packages are taken from backports; others there are newer than
// their closure needs. Machines need a device of QEMU 10.1, and the Go of Debian 13 is too old to compile
// the locked one.
var backported = []string{"qemu", "golang-" + lock.OtherGoVersion}

var (
	mainSuite     = place{lock.Debian, "trixie"}
	updatesSuite  = place{lock.Debian, "trixie-updates"}
	securitySuite = place{lock.Security, "trixie-security"}

	// The newest kernel of all suites is taken, because it is what attackers of an enclave face.
	kernelSuites = []place{mainSuite, updatesSuite, securitySuite}
	// The toolchain reads trusted input only, so a package comes from the security archive only if the main
	// archive lacks it: the main archive keeps a file for months, until the next point release, the
	// security archive may replace it any day.
	toolchainSuites = []place{mainSuite, securitySuite, backportsSuite}
	backportsSuite  = place{lock.Debian, "trixie-backports"}
	emulatorSuites  = []place{backportsSuite, mainSuite, securitySuite}
	// Kernels of other series than the default one.
	seriesSuites = append(kernelSuites[:len(kernelSuites):len(kernelSuites)], backportsSuite)
)

// Options are options of [Update]. Mirrors is required.
type Options struct {
	Mirrors fetch.Mirrors
	Now     time.Time                     // time for checking Valid-Until; zero: the current time
	Keys    map[string]openpgp.EntityList // by archive, instead of neb's own keys
	// Go version ("1.26.8"); "": the newest patch release of the locked one
	Go string
	// kernel series to lock beside the default one, such as "7.3", or [Newest]; nil: those in the lock
	Series   []string
	Progress progress.Func
}

// Newest stands for the newest kernel series of all suites.
const Newest = "newest"

type resolver struct {
	Options
	before   *lock.Lock
	releases map[place]*release
	gone     []lock.File // with [Replace]
}

// Update returns a copy of the lock with some parts resolved anew. before may be an empty lock; then all
// parts must be resolved, and Options.Go is required.
func Update(ctx context.Context, before *lock.Lock, parts []string, o Options) (*lock.Lock, error) {
	return (&resolver{Options: o, before: before}).update(ctx, parts)
}

// Replace returns a copy of the lock in which newer versions replace the files of Debian's archives that are
// gone, those that were built from the same source packages, and what the newer ones do not accept. All other
// files stay.
func Replace(ctx context.Context, before *lock.Lock, gone []lock.File, o Options) (*lock.Lock, error) {
	r := &resolver{Options: o, before: before, gone: gone}
	var parts []string
	if slices.ContainsFunc(before.Series, r.isGone) {
		parts = append(parts, lock.PartSeries)
	}
	if r.isGone(before.Kernel) {
		parts = append(parts, lock.PartKernel)
	}
	for part, packages := range locked(before) {
		if slices.ContainsFunc(packages, func(p lock.Package) bool { return r.isGone(p.File) }) {
			parts = append(parts, part)
		}
	}
	return r.update(ctx, parts)
}

// locked returns the packages of a lock, by part.
func locked(l *lock.Lock) map[string][]lock.Package {
	return map[string][]lock.Package{lock.PartToolchain: l.Packages, lock.PartEmulator: l.Emulator}
}

// isGone reports whether a locked file must be replaced. Debian's pool has a directory for each source
// package.
func (r *resolver) isGone(f lock.File) bool {
	return slices.ContainsFunc(r.gone, func(g lock.File) bool {
		return f.Archive == g.Archive && path.Dir(f.Path) == path.Dir(g.Path)
	})
}

func (r *resolver) update(ctx context.Context, parts []string) (*lock.Lock, error) {
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	r.releases = map[place]*release{}
	after := *r.before
	steps := map[string]func(context.Context, *lock.Lock) error{
		lock.PartKernel:    r.kernel,
		lock.PartSeries:    r.series,
		lock.PartToolchain: r.toolchain,
		lock.PartEmulator:  r.emulator,
	}
	for _, part := range lock.Parts {
		if !slices.Contains(parts, part) {
			continue
		}
		r.Progress.Send(progress.Event{Stage: "resolve " + part})
		if err := steps[part](ctx, &after); err != nil {
			return nil, fmt.Errorf("update %s: %w", part, err)
		}
	}
	after.Sort()
	return &after, nil
}

// record replaces the indexes of a part in the lock.
func (r *resolver) record(l *lock.Lock, part string, places []place) {
	l.Indexes = slices.DeleteFunc(slices.Clone(l.Indexes), func(x lock.Index) bool { return x.Part == part })
	for _, at := range places {
		x := r.releases[at].index
		x.Part = part
		l.Indexes = append(l.Indexes, x)
	}
}

// settle is added to the Date of a Release file, because snapshots of an archive are taken some hours later.
const settle = 24 * time.Hour

// candidate is one version of a package in a suite.
type candidate struct {
	lock.File
	place     place
	depends   [][]debian.Relation
	conflicts [][]debian.Relation
	provides  [][]debian.Relation
}

// packageFile returns the file that a stanza of a Packages index describes.
func (r *resolver) packageFile(p place, s debian.Stanza) (lock.File, error) {
	size, err := strconv.ParseInt(s["Size"], 10, 64)
	if err != nil {
		return lock.File{}, fmt.Errorf("%s: Size: %w", s["Package"], err)
	}
	return lock.File{
		Name: s["Package"], Version: s["Version"], Arch: s["Architecture"], Archive: p.archive,
		Path:     s["Filename"],
		Snapshot: r.releases[p].index.Date.Add(settle), Size: size, SHA256: s["SHA256"],
	}, nil
}

func (r *resolver) kernel(ctx context.Context, l *lock.Lock) error {
	newest, err := r.sources(ctx, kernelSuites)
	if err != nil {
		return err
	}
	var found bool
	if l.Kernel, found = newest[defaultKernel]; !found {
		return fmt.Errorf("package %s not found in any suite", defaultKernel)
	}
	r.record(l, lock.PartKernel, kernelSuites)
	return nil
}

func (r *resolver) series(ctx context.Context, l *lock.Lock) error {
	names := r.Series
	if names == nil {
		for _, f := range r.before.Series {
			names = append(names, strings.TrimPrefix(f.Name, lock.KernelSource))
		}
	}
	l.Series = nil
	if len(names) == 0 {
		r.record(l, lock.PartSeries, nil)
		return nil
	}
	newest, err := r.sources(ctx, seriesSuites)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, found := newest[lock.KernelSource+name]
		locked, err := r.before.Source(name)
		switch {
		case name == Newest && len(newest) > 0:
			f = slices.MaxFunc(slices.Collect(maps.Values(newest)), func(a, b lock.File) int {
				return debian.Compare(a.Version, b.Version)
			})
		case !found && err == nil:
			f = locked
			r.Progress.Send(progress.Event{Stage: "resolve series", Note: fmt.Sprintf(
				"keeping %s %s: no suite has it any more (choose another with --series)", f.Name, f.Version)})
		case !found:
			return fmt.Errorf("package %s not found in any suite: found %s", lock.KernelSource+name,
				strings.Join(slices.Sorted(maps.Keys(newest)), ", "))
		}
		if f.Name != defaultKernel && !slices.Contains(l.Series, f) {
			l.Series = append(l.Series, f)
		}
	}
	r.record(l, lock.PartSeries, seriesSuites)
	return nil
}

// sources returns the newest version of each kernel source in suites, by the package's name.
func (r *resolver) sources(ctx context.Context, suites []place) (map[string]lock.File, error) {
	newest := map[string]lock.File{}
	for _, p := range suites {
		err := r.each(ctx, p, "binary-amd64/Packages", func(s debian.Stanza) error {
			name := s["Package"]
			if !sourceName.MatchString(name) || newest[name].Name != "" &&
				debian.Compare(s["Version"], newest[name].Version) <= 0 {
				return nil
			}
			f, err := r.packageFile(p, s)
			newest[name] = f
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return newest, nil
}

var sourceName = regexp.MustCompile("^" + lock.KernelSource + `[0-9]+\.[0-9]+$`)

func (r *resolver) toolchain(ctx context.Context, l *lock.Lock) error {
	var err error
	if l.Packages, err = r.packages(ctx, lock.PartToolchain, toolchainSuites); err != nil {
		return err
	}
	if r.gone == nil {
		if err := r.golang(ctx, l); err != nil {
			return err
		}
	}
	r.record(l, lock.PartToolchain, toolchainSuites)
	return nil
}

func (r *resolver) emulator(ctx context.Context, l *lock.Lock) error {
	var err error
	if l.Emulator, err = r.packages(ctx, lock.PartEmulator, emulatorSuites); err != nil {
		return err
	}
	r.record(l, lock.PartEmulator, emulatorSuites)
	return nil
}

// packages returns the closure of the part's roots for all hosts, from some suites.
func (r *resolver) packages(ctx context.Context, part string, suites []place) ([]lock.Package, error) {
	packages := map[string]*lock.Package{} // by name and architecture
	for _, host := range lock.Hosts {
		u := newUniverse(host, part, append([]place{lockPlace}, suites...))
		for _, p := range locked(r.before)[part] {
			if r.gone != nil && !r.isGone(p.File) && p.Sets[host] != nil {
				u.add(lockedCandidate(p))
			}
		}
		for _, p := range suites {
			err := r.each(ctx, p, "binary-"+host+"/Packages", func(s debian.Stanza) error {
				if p == backportsSuite && !slices.Contains(backported, cmp.Or(s["Source"], s["Package"])) {
					return nil
				}
				c, err := r.candidate(p, s)
				if err != nil {
					return err
				}
				u.add(c)
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		if err := u.solve(packages); err != nil {
			return nil, fmt.Errorf("host %s: %w", host, err)
		}
	}
	var list []lock.Package
	for _, p := range packages {
		list = append(list, *p)
	}
	// A replacement may need newer versions of files that are not gone. Then those of their source packages
	// are replaced, too, because the lock does not tell which versions go together.
	again := false
	for _, old := range locked(r.before)[part] {
		now := packages[old.Name+" "+old.Arch]
		if r.gone != nil && now != nil && now.File != old.File && !r.isGone(old.File) {
			r.gone = append(r.gone, old.File)
			again = true
		}
	}
	if again {
		return r.packages(ctx, part, suites)
	}
	return list, nil
}

// lockPlace is where candidates come from that stay in the lock.
var lockPlace = place{"", "neb.lock"}

// lockedCandidate returns a package that stays in the lock.
func lockedCandidate(p lock.Package) *candidate {
	c := &candidate{File: p.File, place: lockPlace}
	for _, name := range p.Needs {
		c.depends = append(c.depends, []debian.Relation{{Name: name}})
	}
	return c
}

func (r *resolver) candidate(p place, s debian.Stanza) (*candidate, error) {
	f, err := r.packageFile(p, s)
	if err != nil {
		return nil, err
	}
	c := &candidate{File: f, place: p}
	for _, field := range []struct {
		to    *[][]debian.Relation
		names []string
	}{
		{&c.depends, []string{"Pre-Depends", "Depends"}},
		{&c.conflicts, []string{"Conflicts", "Breaks"}},
		{&c.provides, []string{"Provides"}},
	} {
		for _, name := range field.names {
			groups, err := debian.Relations(s[name])
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", f.Name, name, err)
			}
			*field.to = append(*field.to, groups...)
		}
	}
	return c, nil
}
