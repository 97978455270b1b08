package component

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// rebuiltGo is the file of the component "go", a module like the locked Go toolchain.
const rebuiltGo = "toolchain.zip"

// The locked Go toolchain is compiled in a root that has only the other one, by the program that Go's
// make.bash compiles first, too.
const (
	otherGo = "/usr/lib/go-" + lock.OtherGoVersion
	newGo   = sandbox.Build + "/" + goTree
	goDist  = sandbox.Build + "/dist"
)

// otherGoEnv has no CGO_ENABLED, because Go records it. Without a C compiler in the root it has no effect.
var otherGoEnv = []string{"GOENV=off", "GOTOOLCHAIN=local", "GOTELEMETRY=off", "GOROOT_BOOTSTRAP=" + otherGo,
	"GOOS=linux", "GOARCH=" + runtime.GOARCH, "GOHOSTARCH=" + runtime.GOARCH}

// otherGoJob returns the job that compiles the Go toolchain in the directory locked from the source in it,
// with the Go of [lock.OtherGo] (diverse double-compiling). A compiler's output depends on its source only,
// not on the compiler that compiled it. So a difference is one between the locked compiler and its source.
func (b *Builder) otherGoJob(ctx context.Context, locked string) (job, error) {
	tools, err := b.toolchain(lock.OtherGo)
	if err != nil {
		return job{}, err
	}
	compiled := []string{"bin", "pkg"}
	source, err := hashTree(ctx, locked, compiled...)
	if err != nil {
		return job{}, err
	}
	steps := []sandbox.Command{
		{Env: []string{"GOROOT=" + otherGo, "GO111MODULE=off"},
			Args: []string{otherGo + "/bin/go", "build", "-C", newGo + "/src", "-o", goDist, "./cmd/dist"}},
		{Env: []string{"GOROOT=" + newGo}, Args: []string{"/usr/bin/env", "-C", newGo + "/src", goDist,
			"bootstrap", "-a", "-distpack"}},
	}
	inputs := append(tools.inputs(), Input{Kind: "source", Name: "go", SHA256: source},
		textInput("recipe", "environment and commands", fmt.Sprint(otherGoEnv, steps)))
	return job{name: "go", inputs: inputs, make: func(ctx context.Context, r *run) error {
		root, err := b.root(ctx, tools)
		if err != nil {
			return err
		}
		to := filepath.Join(r.work, "build", goTree)
		if err := tree.Copy(ctx, locked, to, false, compiled...); err != nil {
			return err
		}
		for _, dir := range []string{"src", "src/cmd"} { // a module cannot contain others
			mod := filepath.Join(to, dir)
			if err := os.Rename(filepath.Join(mod, "_go.mod"), filepath.Join(mod, "go.mod")); err != nil {
				return err
			}
		}
		for _, step := range steps {
			step.Root = root
			step.Env = append(append(step.Env, otherGoEnv...), fmt.Sprintf("GOMAXPROCS=%d", b.jobs()))
			if err := r.sandboxed(ctx, step); err != nil {
				return errLogged{fmt.Errorf("compiling: %w", err)}
			}
		}
		module := filepath.Base(b.Lock.Go.Hosts[runtime.GOARCH].Path)
		return os.Rename(filepath.Join(to, "pkg", "distpack", module), filepath.Join(r.dir, rebuiltGo))
	}}, nil
}

// other is how a builder builds after [Builder.UseOther].
type other struct {
	goRoot string
	inputs []Input // for keys of what it makes
}

// UseOther makes b build with the second compilers of the lock: Go programs with the locked Go toolchain
// compiled anew by [lock.OtherGo], kernels with [lock.OtherGCC]. It returns the SHA-256 of that toolchain's
// module, and the names of files in it that differ from those of the locked one.
func (b *Builder) UseOther(ctx context.Context) (sum string, differ []string, err error) {
	locked, err := b.goRoot(ctx)
	if err != nil {
		return "", nil, err
	}
	j, err := b.otherGoJob(ctx, locked)
	if err != nil {
		return "", nil, err
	}
	out, err := b.build(ctx, j)
	if err != nil {
		return "", nil, err
	}
	o := &other{goRoot: locked, inputs: j.inputs}
	sum = out.Files[0].SHA256
	if sum != b.Lock.Go.Hosts[runtime.GOARCH].SHA256 {
		if o.goRoot, err = b.Store.Work(ctx); err != nil {
			return "", nil, err
		}
		if err := unzipModule(ctx, filepath.Join(out.Dir, rebuiltGo), o.goRoot); err != nil {
			return "", nil, err
		}
		if differ, err = differing(ctx, locked, o.goRoot); err != nil {
			return "", nil, err
		}
	}
	b.other = o
	b.goCache.dir = "" // the locked toolchain may have written to it
	return sum, differ, nil
}

// differing returns the names of files that two trees do not have in common.
func differing(ctx context.Context, a, b string) ([]string, error) {
	times := map[tree.Entry]int{}
	for _, dir := range []string{a, b} {
		entries, err := tree.List(ctx, dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			times[tree.Entry{Path: e.Path, SHA256: e.SHA256}]++
		}
	}
	var names []string
	for e, n := range times {
		if n == 1 {
			names = append(names, e.Path)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
