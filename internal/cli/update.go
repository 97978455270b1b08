//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/resolve"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

func newUpdateCommand(s streams) *cobra.Command {
	var name, goVersion string
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "update [" + strings.Join(lock.Parts, "|") + "]...",
		Short: "Resolve neb.lock again from signed package indexes",
		Long: `Resolve neb.lock, or the named parts of it, again.

neb downloads the package indexes from the same mirrors as packages (see 'neb build'). It accepts an index if
it has an OpenPGP signature by one of the keys that neb contains, is not past its Valid-Until date, and is not
older than the one that the lock was made from. The Go toolchain is updated to the newest patch release of its
minor version, or to the version given with --go, and checked against the checksum database (GOSUMDB).

neb prints each version that changes, and marks downgrades. The lock is embedded in neb: rebuild neb, or use
'go run ./cmd/neb', to build with the new lock.`,
		Args: func(_ *cobra.Command, args []string) error {
			for _, part := range args {
				if !slices.Contains(lock.Parts, part) {
					return fmt.Errorf("unknown part %q: expected %s", part, strings.Join(lock.Parts, ", "))
				}
			}
			return nil
		},
		ValidArgsFunction: each(lock.Parts),
		RunE: func(cmd *cobra.Command, parts []string) error {
			if len(parts) == 0 {
				parts = lock.Parts
			}
			if goVersion != "" && !slices.Contains(parts, lock.PartToolchain) {
				return usagef("--go cannot be combined with %s: it needs %s",
					strings.Join(parts, ", "), lock.PartToolchain)
			}
			if name == "" {
				var err error
				if name, err = lock.Find(); err != nil {
					return err
				}
			}
			mirrors, err := fetch.OfMachine(cmd.Context(), "/", flags.mirrorOnly)
			if err != nil {
				return err
			}
			return update(cmd.Context(), s, mirrors, name, parts, goVersion)
		},
	}
	cmd.Flags().StringVar(&name, "lock", "",
		"lock `file` to update (default: neb.lock in $NEB_SOURCE, or in the checkout around the current directory)")
	cmd.Flags().StringVar(&goVersion, "go", "",
		"Go `version` to use, as in 1.26.8 (default: the newest patch release)")
	flags.addMirrorOnly(cmd)
	return cmd
}

func update(
	ctx context.Context, s streams, mirrors fetch.Mirrors, name string, parts []string, goVersion string,
) error {
	before, err := lock.ParseFile(name)
	if errors.Is(err, fs.ErrNotExist) && len(parts) == len(lock.Parts) {
		complain(s, "%s does not exist: creating it", name)
		before, err = &lock.Lock{}, nil
	}
	if err != nil {
		return err
	}
	after, err := resolve.Update(ctx, before, parts, resolve.Options{
		Mirrors: mirrors, Go: goVersion, Progress: resolving(s)})
	if err != nil {
		return err
	}
	if err := lock.WriteFile(name, after); err != nil {
		return err
	}
	changes := lock.Diff(before, after)
	for _, c := range changes {
		printLine(s.out, "%v", c)
	}
	if len(changes) == 0 {
		printLine(s.out, "no version changed; the dates of the indexes are updated")
	}
	return nil
}

// resolving prints the progress of resolving a lock.
func resolving(s streams) progress.Func {
	return func(e progress.Event) {
		if e.Note != "" {
			complain(s, "%s", e.Note)
		} else {
			printLine(s.err, "%s", e.Stage)
		}
	}
}

// updateMissing repeats a build whose lock names files that are gone from the mirrors, with newer versions of
// these.
func updateMissing(ctx context.Context, s streams, b *component.Builder, o resolve.Options, build func() error) error {
	for {
		err := build()
		var gone *fetch.GoneError
		if !errors.As(err, &gone) {
			return err
		}
		after, resolveErr := resolve.Replace(ctx, b.Lock, gone.Files, o)
		if resolveErr != nil {
			return fmt.Errorf("%w\n--update-missing: %w", err, resolveErr)
		}
		changes := lock.Diff(b.Lock, after)
		if len(changes) == 0 {
			return fmt.Errorf("%w\n--update-missing: the signed indexes have no other versions", err)
		}
		for _, c := range changes {
			complain(s, "%s", c)
		}
		complain(s, "warning: these versions are not in the committed lock: the output will not be its bytes; "+
			"'neb update' keeps them")
		b.Lock = after
	}
}
