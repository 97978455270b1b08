package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/resolve"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

func newUpdateCommand(s streams) *cobra.Command {
	var name, goVersion string
	cmd := &cobra.Command{
		Use:   "update [" + strings.Join(lock.Parts, "|") + "]...",
		Short: "Resolve neb.lock anew from signed package indexes",
		Long: `Resolve neb.lock, or the parts that are named, anew.

The package indexes come from the same mirrors as packages do (see 'neb build'), and are taken only with an
OpenPGP signature by one of the keys that neb holds, before their Valid-Until, and when they are not older than
those that the lock was made from. The Go toolchain goes to the newest patch release of its minor version, or to
the version that --go says, and is checked with the checksum database (GOSUMDB).

Every version that changes is printed, and marked if it goes backwards. The lock is part of neb: rebuild neb
(or use 'go run ./cmd/neb') to build with the new one.`,
		Args: func(_ *cobra.Command, args []string) error {
			for _, part := range args {
				if !slices.Contains(lock.Parts, part) {
					return fmt.Errorf("expected %s, found %q", strings.Join(lock.Parts, ", "), part)
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
				return usagef("--go belongs to the part %s, which is not among %s", lock.PartToolchain, strings.Join(parts, ", "))
			}
			if name == "" {
				var err error
				if name, err = findLock(); err != nil {
					return err
				}
			}
			mirrors, err := fetch.OfMachine(cmd.Context(), "/")
			if err != nil {
				return err
			}
			return update(cmd.Context(), s, mirrors, name, parts, goVersion)
		},
	}
	cmd.Flags().StringVar(&name, "lock", "", "the lock file to update (default: neb.lock of the checkout around this directory, or of NEB_SOURCE)")
	cmd.Flags().StringVar(&goVersion, "go", "", "the Go version to take, as 1.26.8 (default: the newest patch release)")
	return cmd
}

// findLock finds the lock of the checkout: that of NEB_SOURCE, or the next one upwards.
func findLock() (string, error) {
	const name = "neb.lock"
	if dir := os.Getenv("NEB_SOURCE"); dir != "" {
		return filepath.Join(dir, name), nil
	}
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s in %s or above it: say where it is with --lock", name, start)
		}
	}
}

func update(ctx context.Context, s streams, mirrors fetch.Mirrors, name string, parts []string, goVersion string) error {
	before := &lock.Lock{}
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(parts) == len(lock.Parts):
		fmt.Fprintf(s.err, "%s: making a new one\n", name)
	case err != nil:
		return err
	default:
		before, err = lock.Parse(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	after, err := resolve.Update(ctx, before, parts, resolve.Options{
		Mirrors: mirrors,
		Go:      goVersion,
		SumDB:   gosumdb(ctx),
		Progress: func(e progress.Event) {
			switch {
			case e.Note != "":
				fmt.Fprintf(s.err, "neb: %s\n", e.Note)
			case e.Total == 0:
				fmt.Fprintf(s.err, "%s\n", e.Stage)
			case e.Done == e.Total:
				fmt.Fprintf(s.err, "%s: %d %s\n", e.Stage, e.Total, e.Unit)
			}
		},
	})
	if err != nil {
		return err
	}
	if err := writeLock(name, after); err != nil {
		return err
	}
	changes := lock.Diff(before, after)
	for _, c := range changes {
		fmt.Fprintln(s.out, c)
	}
	if len(changes) == 0 {
		fmt.Fprintln(s.out, "nothing changed but the dates of the indexes")
	}
	return nil
}

// writeLock replaces a lock file in one step.
func writeLock(name string, l *lock.Lock) error {
	data := l.Bytes()
	if _, err := lock.Read(strings.NewReader(string(data))); err != nil {
		return fmt.Errorf("the new lock is not right, %s stays as it is: %w", name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".neb.lock-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// gosumdb is the machine's GOSUMDB: what its Go says, else the variable.
func gosumdb(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "go", "env", "GOSUMDB")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	if out, err := cmd.Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return os.Getenv("GOSUMDB")
}
