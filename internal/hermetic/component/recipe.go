package component

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
)

// A recipe makes something with one script in one sandbox: sources in /src, results to /out.
type recipe struct {
	sets    []string                       // of the lock
	sources func(l *lock.Lock) []lock.File // found in /src by the last element of their paths
	script  string                         // for /bin/sh -eu, in /build; $JOBS is how many processes at once
	title   string                         // of its progress
	counts  func(line string) bool         // lines of its output that are progress
	lines   int64                          // about how many of them there are
}

var (
	//go:embed recipe/emulator.sh
	emulatorScript string

	emulator = recipe{
		sets:    []string{lock.Base, lock.Emulator}, // the base has the host's compiler
		sources: func(l *lock.Lock) []lock.File { return []lock.File{l.Emulator} },
		script:  emulatorScript,
		title:   "compile emulator",
		counts:  func(line string) bool { return len(line) > 0 && line[0] == '[' }, // ninja: "[12/3456] …"
		lines:   2173,
	}
)

// Emulator returns the directory of the emulator: bin/qemu-system-x86_64, bin/qemu-system-aarch64, and share/
// with their firmware. It is made if it is not in the store.
func (b *Builder) Emulator(ctx context.Context) (string, error) {
	o, err := b.recipe(ctx, "emulator", emulator)
	return o.Dir, err
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
			if err := copyInto(b.Store.Path(f), filepath.Join(r.work, "src", filepath.Base(f.Path))); err != nil {
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

// moveAll moves what is in one directory into another.
func moveAll(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("nothing was made")
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Tool runs a program of the locked packages in a sandbox. It sees work's sub-directories src (its input) and out
// (its result), whose files it finds in /src and /out. work should be on the file system of the store.
//
// It does not see SOURCE_DATE_EPOCH, which is 0 in builds: mkfs.erofs takes that for the latest time that a file may have.
func (b *Builder) Tool(ctx context.Context, sets []string, work string, args ...string) error {
	tools, err := b.toolchain(sets...)
	if err != nil {
		return err
	}
	root, err := b.root(ctx, tools)
	if err != nil {
		return err
	}
	mode, err := b.mode(ctx, work)
	if err != nil {
		return err
	}
	log, err := newLog(b.Store, fmt.Sprintf("tool-%d", os.Getpid()), filepath.Base(args[0]), b.Progress)
	if err != nil {
		return err
	}
	err = mode.Run(ctx, sandbox.Command{Root: root, Work: work, Args: args, Env: []string{"SOURCE_DATE_EPOCH"}, Output: log})
	if err != nil {
		err = errLogged{err}
	}
	return log.close(err, ctx.Err() != nil)
}
