// Package component builds the parts of an enclave from the lock and the source tree: kernel, init and
// linuxkit for either architecture, and the emulator. It does not choose versions (see lock), write the
// output directory (see output), or pack an enclave.
//
// A component has a list of inputs ([Input]) and a way to build it from them in a sandbox. The store keeps
// it under the hash of all inputs, so it is built once, and again when an input changes. Machine, user,
// directory and clock have no influence.
package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Names lists the components of an output directory, in the order of building.
var Names = []string{"init", "linuxkit", "kernel"}

// Archs lists the architectures of components.
var Archs = kernel.Archs

// Host returns the architecture of the machine that neb runs on.
func Host() string { return arch.Host() }

// files lists the files of a component, by component and architecture.
var files = map[string]map[string][]string{
	"kernel": {
		"x86_64":  {"bzImage", "bzImage.config", "cmdline", "nsm.ko"},
		"aarch64": {"Image", "Image.config", "cmdline", "nsm.ko"},
	},
	"init":     {"x86_64": {"init"}, "aarch64": {"init"}},
	"linuxkit": {"x86_64": {"linuxkit"}, "aarch64": {"linuxkit"}},
	"go":       {"": {rebuiltGo}}, // see UseOther
}

// Files returns the names of the files of a component for an architecture.
func Files(name, arch string) []string { return files[name][arch] }

// Builder builds components. Set its fields before the first use. Its methods may be called from several
// goroutines.
type Builder struct {
	Store *store.Store
	Lock  *lock.Lock

	Source     string        // neb's own source tree; "" searches for it
	Jobs       int           // parallel processes; 0: one for each processor
	Offline    bool          // download nothing
	Progress   progress.Func // may be nil
	MirrorOnly bool          // download from the mirrors in NEB_MIRROR only
	Fresh      bool          // build components even if the store has them, and keep them until it is closed

	Profile      string            // of [kernel.Profiles]; "" for a classic enclave
	Fragments    []kernel.Fragment // the user's kernel options, after neb's
	Patches      []kernel.Patch    // the user's patches to the kernel, after neb's
	KernelSource string            // a directory or tarball; "" for the locked kernel
	Series       string            // of the locked kernel and neb's options; "" for the default one

	Sharing *Sharing // nil: build everything here

	other *other // nil unless UseOther was called

	isolation struct {
		sync.Mutex
		mode sandbox.Mode
	}
	roots struct { // verified toolchains, by key
		sync.Mutex
		dirs map[string]string
	}
	goCache struct { // GOCACHE of this builder
		sync.Mutex
		dir string // "" before the first use
	}
	source struct {
		sync.Once
		dir string
		err error
	}
}

// Output is a component that was built, or found in the store.
type Output struct {
	Dir string // holds its files; with [Builder.Fresh] until the store is closed
	Record
}

// job is the plan of building one component for one architecture.
type job struct {
	name, arch string
	inputs     []Input
	// make writes the component's files to r.dir and the output of its commands to r.log. r.work is a
	// temporary directory on the same file system.
	make func(ctx context.Context, r *run) error
}

// run is one execution of a job.
type run struct {
	job
	dir, work string
	mode      sandbox.Mode
	log       *log
}

func (j job) title() string {
	if j.arch == "" {
		return j.name
	}
	return j.name + " " + j.arch
}

func (j job) key() string {
	name := j.name
	if j.arch != "" {
		name += "-" + j.arch
	}
	return name + "-" + keyOf(j.name, j.arch, j.inputs)
}

// Build builds the named components (of [Names]) for an architecture, one after the other.
func (b *Builder) Build(ctx context.Context, arch string, names ...string) ([]Output, error) {
	jobs, err := b.plan(ctx, arch, names)
	if err != nil {
		return nil, err
	}
	var outputs []Output
	for _, j := range jobs {
		o, err := b.build(ctx, j)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

// Stored reports whether the store holds all of the named components (of [Names]) for an architecture. It
// does not wait for a build of them that is running, and does not verify what is there: Build does.
func (b *Builder) Stored(ctx context.Context, arch string, names ...string) (bool, error) {
	jobs, err := b.plan(ctx, arch, names)
	if err != nil {
		return false, err
	}
	for _, j := range jobs {
		if !b.Store.Has(j.key()) {
			return false, nil
		}
	}
	return true, nil
}

// plan returns the jobs of the named components, in the order of [Names].
func (b *Builder) plan(ctx context.Context, arch string, names []string) ([]job, error) {
	if !slices.Contains(Archs, arch) {
		return nil, fmt.Errorf("invalid architecture %q: expected %s", arch, strings.Join(Archs, " or "))
	}
	plans := map[string]func(ctx context.Context, arch string) (job, error){
		"kernel":   b.kernelJob,
		"init":     b.goJob("init"),
		"linuxkit": b.goJob("linuxkit"),
	}
	for _, name := range names {
		if plans[name] == nil {
			return nil, fmt.Errorf("invalid component %q: expected one of %s", name,
				strings.Join(Names, ", "))
		}
	}
	var jobs []job
	for _, name := range Names {
		if !slices.Contains(names, name) {
			continue
		}
		j, err := plans[name](ctx, arch)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// recordName is the file name of the [Record] in an output.
const recordName = "record.json"

// build builds a job, or finds its output in the store.
func (b *Builder) build(ctx context.Context, j job) (Output, error) {
	// Some permissions of new files get into the output, whichever program creates them. They must not
	// depend on the user's umask.
	syscall.Umask(0o022)
	key := j.key()
	if b.Fresh {
		dir, err := b.Store.Work(ctx)
		if err != nil {
			return Output{}, err
		}
		record, err := b.make(ctx, j, fmt.Sprintf("fresh-%d-%s", os.Getpid(), key), dir)
		return Output{dir, record}, err
	}
	dir, _, err := b.Store.Output(ctx, key, func(dir string) error { return b.shared(ctx, j, dir) })
	if err != nil {
		return Output{}, err
	}
	return readOutput(dir)
}

// readOutput reads the record of an output.
func readOutput(dir string) (Output, error) {
	o := Output{Dir: dir}
	path := filepath.Join(dir, recordName)
	text, err := os.ReadFile(path)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o.Record); err != nil {
		return o, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

// make builds a job in dir and writes its record. name is that of the log.
func (b *Builder) make(ctx context.Context, j job, name, dir string) (rec Record, err error) {
	work := filepath.Join(dir, ".work")
	if err := os.Mkdir(work, 0o755); err != nil {
		return rec, err
	}
	mode, err := b.mode(ctx, work)
	if err != nil {
		return rec, err
	}
	log, err := newLog(b.Store, name, j.title(), b.Progress)
	if err != nil {
		return rec, err
	}
	r := &run{job: j, dir: dir, work: work, mode: mode, log: log}
	b.Progress.Send(progress.Event{Stage: j.title(), Note: "building " + j.title()})
	err = j.make(ctx, r)
	if err = log.close(err, ctx.Err() != nil); err != nil {
		return rec, fmt.Errorf("%s: %w", j.title(), err)
	}
	if err := tree.Remove(ctx, work); err != nil {
		return rec, err
	}
	rec, err = newRecord(ctx, j, mode, dir)
	if err != nil {
		return rec, fmt.Errorf("%s: %w", j.title(), err)
	}
	return rec, rec.write(filepath.Join(dir, recordName))
}

// mode chooses the isolation of sandboxes, once, and reports what it cannot enforce.
func (b *Builder) mode(ctx context.Context, dir string) (sandbox.Mode, error) {
	b.isolation.Lock()
	defer b.isolation.Unlock()
	if b.isolation.mode != "" {
		return b.isolation.mode, nil
	}
	mode, err := sandbox.Choose(ctx, dir)
	if err != nil {
		return "", err
	}
	for _, gap := range mode.Gaps() {
		b.Progress.Send(progress.Event{Stage: "sandbox", Note: "not enforced in isolation chroot: " + gap})
	}
	b.isolation.mode = mode
	return mode, nil
}

// sandboxed runs a command of a job. It sets c.Work and c.Output. In /out it leaves files only: outside of
// the sandbox a link would lead to a file of this machine.
func (r *run) sandboxed(ctx context.Context, c sandbox.Command) error {
	c.Work = r.work
	c.Output = r.log
	err := r.mode.Run(ctx, c)
	out := filepath.Join(r.work, "out")
	entries, _ := os.ReadDir(out) // what fails here fails again when the files are used
	for _, e := range entries {
		if !e.Type().IsRegular() {
			err = errors.Join(err, fmt.Errorf("%s/%s: expected a file, found %v", sandbox.Out, e.Name(),
				e.Type()),
				os.RemoveAll(filepath.Join(out, e.Name())))
		}
	}
	return err
}

func (b *Builder) jobs() int {
	if b.Jobs > 0 {
		return b.Jobs
	}
	return runtime.NumCPU()
}
