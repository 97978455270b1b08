// Package component makes the parts of an enclave out of what the lock and the source tree hold: kernel, init and
// linuxkit for either architecture, and the emulator.
//
// Each component is a row of a table: what goes into it ([Input]), and how it is made of that in a sandbox. The key
// under which the store keeps it is the hash of all that goes in, so an output is made once, and again when any
// input changes. Nothing else has a say: not the machine, the user, the directory or the clock.
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

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Names are the components that make up a result, in the order in which they are made.
var Names = []string{"init", "linuxkit", "kernel"}

// Archs are the architectures that there are components for.
var Archs = kernel.Archs

// Host is the architecture of the machine that neb runs on.
func Host() string { return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] }

// files are what a component's output holds for an architecture.
var files = map[string]map[string][]string{
	"kernel": {
		"x86_64":  {"bzImage", "bzImage.config", "cmdline", "nsm.ko"},
		"aarch64": {"Image", "Image.config", "cmdline", "nsm.ko"},
	},
	"init":     {"x86_64": {"init"}, "aarch64": {"init"}},
	"linuxkit": {"x86_64": {"linuxkit"}, "aarch64": {"linuxkit"}},
}

// Files are the names of the files that a component is for an architecture.
func Files(name, arch string) []string { return files[name][arch] }

// Builder makes components. Its fields are set before its first use; its methods may be used from several
// goroutines.
type Builder struct {
	Store *store.Store
	Lock  *lock.Lock

	Source   string        // neb's own source tree; "" looks for it (see the package's findSource)
	Jobs     int           // processes at once; 0: as many as there are processors
	Offline  bool          // use what is in the store only
	Progress progress.Func // may be nil
	Fresh    bool          // make components anew, and keep them until the store is closed

	Fragments    []kernel.Fragment // users' own kernel options, after neb's
	Patches      []kernel.Patch    // users' own patches to the kernel, after neb's
	KernelSource string            // a directory or tarball instead of the locked kernel; "" for that

	isolation struct {
		sync.Mutex
		mode sandbox.Mode
	}
	roots struct { // that were verified, by key
		sync.Mutex
		dirs map[string]string
	}
	goCache struct { // of what was compiled
		sync.Mutex
		dir string // "" for none yet
	}
	source struct {
		sync.Once
		tree *sourceTree
		err  error
	}
}

// Output is a component that was made, or found in the store.
type Output struct {
	Dir string // where its files are; when the builder was [Builder.Fresh], until the store is closed
	Record
}

// job is one component for one architecture, ready to be made.
type job struct {
	name, arch string
	inputs     []Input
	needs      func(ctx context.Context) ([]lock.File, error) // downloads that are missed if it has to be made: see [Builder.CheckStore]
	// make puts the component's files into dir; log gets what its commands say. It may use work, which is on the
	// same file system and goes away afterwards.
	make func(ctx context.Context, r *run) error
}

// run is one making of a job.
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

// Build makes the named components (of [Names]) for an architecture, one after the other.
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

// CheckStore is for [Builder.Offline], where [Builder.Build] would find one component after the other that it cannot make: its error names
// every download that is missing for those of the wanted components, by architecture, that the store does not hold. Go modules are not
// among them: only the Go command knows which a program needs, and it is a download itself. It looks at nothing when fetching is allowed.
func (b *Builder) CheckStore(ctx context.Context, wanted map[string][]string) error {
	if !b.Offline {
		return nil
	}
	var all []lock.File
	for _, arch := range Archs {
		jobs, err := b.plan(ctx, arch, wanted[arch])
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if !b.Fresh {
				dir, err := b.stored(ctx, j.key())
				if err != nil {
					return err
				}
				if dir != "" {
					continue
				}
			}
			files, err := j.needs(ctx)
			if err != nil {
				return err
			}
			for _, f := range files {
				if !slices.Contains(all, f) {
					all = append(all, f)
				}
			}
		}
	}
	return b.Fetch(ctx, all)
}

// Stored reports whether the store holds all of the named components (of [Names]) for an architecture. It does not wait for a
// build of them that is running, and does not verify what is there: Build does.
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

// errNotThere is why [Builder.stored] makes nothing.
var errNotThere = errors.New("not in the store")

// stored is the directory of an output that the store has, hashed again, and "" if it has not.
func (b *Builder) stored(ctx context.Context, key string) (string, error) {
	dir, _, err := b.Store.Output(ctx, key, func(string) error { return errNotThere })
	if errors.Is(err, errNotThere) {
		return "", nil
	}
	return dir, err
}

// unlessStored returns what an output is made of, and nothing if the store has it.
func (b *Builder) unlessStored(ctx context.Context, key string, files []lock.File) ([]lock.File, error) {
	dir, err := b.stored(ctx, key)
	if dir != "" || err != nil {
		return nil, err
	}
	return files, nil
}

// plan returns the jobs of the named components, in the order of [Names].
func (b *Builder) plan(ctx context.Context, arch string, names []string) ([]job, error) {
	if !slices.Contains(Archs, arch) {
		return nil, fmt.Errorf("unknown architecture %q, expected %s", arch, strings.Join(Archs, " or "))
	}
	plans := map[string]func(ctx context.Context, arch string) (job, error){
		"kernel":   b.kernelJob,
		"init":     b.goJob("init"),
		"linuxkit": b.goJob("linuxkit"),
	}
	for _, name := range names {
		if plans[name] == nil {
			return nil, fmt.Errorf("unknown component %q, expected %s", name, strings.Join(Names, ", "))
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

// recordName is the file of an output that holds its [Record].
const recordName = "record.json"

// errFresh ends the making of an output that is not to be kept.
var errFresh = errors.New("made, not kept")

// build makes a job, or finds it made.
func (b *Builder) build(ctx context.Context, j job) (Output, error) {
	// Files made on the way keep the permissions that they are made with, whoever makes them: this process, the Go
	// command, a compiler. Nothing may depend on the user's umask.
	syscall.Umask(0o022)
	key := j.key()
	if b.Fresh {
		var o Output
		// A name of its own: what the store holds under the key stays as it is, and others may make the same meanwhile.
		name := fmt.Sprintf("fresh-%d-%s", os.Getpid(), key)
		_, _, err := b.Store.Output(ctx, name, func(dir string) error {
			var err error
			if o.Record, err = b.make(ctx, j, name, dir); err != nil {
				return err
			}
			if o.Dir, err = b.Store.Work(ctx); err != nil {
				return err
			}
			for _, f := range o.Files {
				if err := os.Rename(filepath.Join(dir, f.Name), filepath.Join(o.Dir, f.Name)); err != nil {
					return err
				}
			}
			return errFresh
		})
		if errors.Is(err, errFresh) {
			err = nil
		}
		return o, err
	}
	dir, _, err := b.Store.Output(ctx, key, func(dir string) error {
		_, err := b.make(ctx, j, key, dir)
		return err
	})
	if err != nil {
		return Output{}, err
	}
	o := Output{Dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if err == nil {
		err = json.Unmarshal(text, &o.Record)
	}
	if err != nil {
		return Output{}, fmt.Errorf("%s in the store: %w", key, err)
	}
	return o, nil
}

// make makes a job in dir, and its record. The name is that of its log.
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
	b.Progress.Send(progress.Event{Stage: j.title(), Note: "making " + j.title()})
	err = j.make(ctx, r)
	if err = log.close(err, ctx.Err() != nil); err != nil {
		return rec, fmt.Errorf("%s: %w", j.title(), err)
	}
	if err := os.RemoveAll(work); err != nil {
		return rec, err
	}
	rec, err = newRecord(j, mode, dir)
	if err != nil {
		return rec, fmt.Errorf("%s: %w", j.title(), err)
	}
	return rec, rec.write(filepath.Join(dir, recordName))
}

// mode chooses how sandboxes are closed off, once, and says what that cannot enforce.
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
		b.Progress.Send(progress.Event{Stage: "sandbox", Note: "not enforced here (no namespaces, chroot alone): " + gap})
	}
	b.isolation.mode = mode
	return mode, nil
}

// sandboxed runs a command of a job; c.Work and c.Output are set here.
func (r *run) sandboxed(ctx context.Context, c sandbox.Command) error {
	c.Work = r.work
	c.Output = r.log
	return r.mode.Run(ctx, c)
}

func (b *Builder) jobs() int {
	if b.Jobs > 0 {
		return b.Jobs
	}
	return runtime.NumCPU()
}
