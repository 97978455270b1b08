package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// A recipe makes an output with one script in one sandbox: sources are in /src, the output goes to /out.
type recipe struct {
	sets    []string                       // of the lock
	sources func(l *lock.Lock) []lock.File // in /src by the last element of their paths
	// for /bin/sh -eu, in /build; $JOBS is the number of parallel processes
	script string
	title  string                 // of its progress
	counts func(line string) bool // reports whether a line of its log is progress
	lines  int64                  // about how many of those lines there are
}

func (b *Builder) recipe(ctx context.Context, name string, rec recipe) (Output, error) {
	tools, err := b.toolchain(rec.sets...)
	if err != nil {
		return Output{}, err
	}
	sources := rec.sources(b.Lock)
	inputs := append(lockedInputs("source", sources...), textInput("recipe", name+".sh", rec.script))
	inputs = append(inputs, tools.inputs()...)
	return b.build(ctx, job{name: name, inputs: inputs, make: func(ctx context.Context, r *run) error {
		root, err := b.root(ctx, tools, sources...)
		if err != nil {
			return err
		}
		for _, f := range sources {
			if err := tree.CopyFile(ctx, b.Store.Path(f),
				filepath.Join(r.work, "src", filepath.Base(f.Path)), 0o644); err != nil {
				return err
			}
		}
		if err := place(r.work, "src", map[string]string{"recipe.sh": rec.script}); err != nil {
			return err
		}
		r.log.count(rec.title, "objects", rec.lines, rec.counts)
		err = r.sandboxed(ctx, sandbox.Command{
			Root: root,
			Env:  []string{fmt.Sprintf("JOBS=%d", b.jobs())},
			Args: []string{"/bin/sh", "-eu", sandbox.Src + "/recipe.sh"},
		})
		if err != nil {
			return errLogged{err}
		}
		r.log.counted()
		return moveAll(filepath.Join(r.work, "out"), r.dir)
	}})
}

// moveAll moves the content of one directory into another.
func moveAll(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("the recipe left no output")
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
