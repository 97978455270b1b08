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
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// updateParts are the arguments of neb update. The kernel is all series.
var updateParts = []string{lock.PartKernel, lock.PartToolchain, lock.PartEmulator}

func newUpdateCommand(s streams) *cobra.Command {
	var name string
	var o resolve.Options
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "update [" + strings.Join(updateParts, "|") + "]...",
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
				if !slices.Contains(updateParts, part) {
					return fmt.Errorf("unknown part %q: expected %s", part, strings.Join(updateParts, ", "))
				}
			}
			return nil
		},
		ValidArgsFunction: each(updateParts),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, part := range map[string]string{"go": lock.PartToolchain, "series": lock.PartKernel} {
				if cmd.Flags().Changed(flag) && len(args) > 0 && !slices.Contains(args, part) {
					return usagef("--%s cannot be combined with %s: it needs %s",
						flag, strings.Join(args, ", "), part)
				}
			}
			parts := partsOf(args, cmd.Flags().Changed("series"))
			if name == "" {
				var err error
				if name, err = lock.Find(); err != nil {
					return err
				}
			}
			var err error
			if o.Mirrors, err = fetch.OfMachine(cmd.Context(), "/", flags.mirrorOnly); err != nil {
				return err
			}
			o.Progress = resolving(s)
			return update(cmd.Context(), s, name, parts, o)
		},
	}
	cmd.Flags().StringVar(&name, "lock", "",
		"lock `file` to update (default: neb.lock in $NEB_SOURCE, or in the checkout around the current "+
			"directory)")
	cmd.Flags().StringVar(&o.Go, "go", "",
		"Go `version` to use, as in 1.26.8 (default: the newest patch release)")
	cmd.Flags().StringSliceVar(&o.Series, "series", nil,
		"kernel `series` to lock beside "+kernel.DefaultSeries+", such as 7.3, or "+resolve.Newest+
			"; repeatable; 'neb update kernel' then leaves "+kernel.DefaultSeries+" as it is "+
			"(default: those in the lock)")
	flags.addMirrorOnly(cmd)
	return cmd
}

// partsOf returns the parts of the lock that arguments mean. With --series, the default kernel stays.
func partsOf(args []string, series bool) []string {
	if len(args) == 0 {
		return lock.Parts
	}
	parts := slices.Clone(args)
	if i := slices.Index(parts, lock.PartKernel); i >= 0 && series {
		parts[i] = lock.PartSeries
	} else if i >= 0 {
		parts = append(parts, lock.PartSeries)
	}
	return parts
}

func update(ctx context.Context, s streams, name string, parts []string, o resolve.Options) error {
	before, err := lock.ParseFile(name)
	if errors.Is(err, fs.ErrNotExist) && len(parts) == len(lock.Parts) {
		complain(s, "%s does not exist: creating it", name)
		before, err = &lock.Lock{}, nil
	}
	if err != nil {
		return err
	}
	after, err := resolve.Update(ctx, before, parts, o)
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
func updateMissing(
	ctx context.Context, s streams, b *component.Builder, o resolve.Options, build func() error,
) error {
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
		complain(s, "warning: these versions are not in the committed lock: the output will not be its "+
			"bytes; 'neb update' keeps them")
		b.Lock = after
	}
}
