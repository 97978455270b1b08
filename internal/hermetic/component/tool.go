package component

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
)

// Tool runs a program of the locked packages in a sandbox. The program finds work's subdirectories src (its
// input) and out (its output) in /src and /out. work should be on the file system of the store.
//
// Tool clears SOURCE_DATE_EPOCH, which is 0 in builds: mkfs.erofs would take it for the latest time that a
// file may have.
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
	err = mode.Run(ctx, sandbox.Command{
		Root: root, Work: work, Args: args, Env: []string{"SOURCE_DATE_EPOCH"}, Output: log,
	})
	if err != nil {
		err = errLogged{err}
	}
	return log.close(err, ctx.Err() != nil)
}
