//go:build linux

package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// downloadsTarget is the argument of neb cache push and pull for the files that neb.lock names.
const downloadsTarget = "downloads"

// remoteCommand returns a command that works on builds and on downloads of the lock.
func remoteCommand(s streams, cmd *cobra.Command, flags *buildFlags,
	builds func(ctx context.Context, b *component.Builder, arch string, names []string) error,
	downloads func(ctx context.Context, b *component.Builder, files []lock.File) error) *cobra.Command {
	targets := targetsWith(downloadsTarget)
	cmd.Use += " [" + strings.Join(targets, "|") + "]..."
	cmd.ValidArgsFunction = each(targets)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		archs, err := flags.arch()
		if err != nil {
			return err
		}
		names, withDownloads, err := chosen(args, downloadsTarget)
		if err != nil {
			return err
		}
		b, done, err := flags.sharingBuilder(cmd.Context(), s)
		if err != nil {
			return err
		}
		defer done()
		for _, a := range archs {
			if err := builds(cmd.Context(), b, a, names); err != nil {
				return err
			}
		}
		if !withDownloads {
			return nil
		}
		files := b.Lock.Default()
		// Sources of other series are large, and few use them.
		if source, err := b.Lock.Source(flags.series); err != nil {
			return err
		} else if !slices.Contains(files, source) {
			files = append(files, source)
		}
		return downloads(cmd.Context(), b, files)
	}
	flags.addArch(cmd)
	flags.add(cmd)
	flags.addKernel(cmd)
	return cmd
}

func newCachePushCommand(s streams) *cobra.Command {
	var flags buildFlags
	cmd := remoteCommand(s, &cobra.Command{
		Use:   "push",
		Short: "Sign builds that the store has and push them to the remotes",
		Long: `Sign builds that the store has and push them to the remotes, with a statement of their files. Others
take them instead of building if they trust the key (see 'neb trust'). Downloads are the files that neb.lock
names; they need no signature.`,
	}, &flags, func(ctx context.Context, b *component.Builder, arch string, names []string) error {
		if len(names) > 0 && b.Sharing.Signer == nil {
			return usagef("--key is required: the private key that signs the builds")
		}
		return b.Push(ctx, arch, names...)
	}, func(ctx context.Context, b *component.Builder, files []lock.File) error {
		if err := b.Fetch(ctx, files); err != nil {
			return err
		}
		sums := map[string]lock.File{}
		for _, f := range files {
			sums[f.SHA256] = f
		}
		var list []string
		for sum := range sums {
			list = append(list, sum)
		}
		slices.Sort(list)
		tag := fmt.Sprintf("downloads-%x", sha256.Sum256(neb.LockFile))
		for _, r := range b.Sharing.Remotes {
			err := r.PushDownloads(ctx, tag, list, func(sum string) string { return b.Store.Path(sums[sum]) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	cmd.Flags().StringVar(&flags.pushKey, "key", "",
		"private `key` to sign with, a PEM file or an ARN (ECDSA P-256, P-384 or Ed25519)")
	return cmd
}

func newCachePullCommand(s streams) *cobra.Command {
	var flags buildFlags
	return remoteCommand(s, &cobra.Command{
		Use:   "pull",
		Short: "Take builds from the remotes into the store, and build nothing",
		Long: `Take builds from the remotes into the store. The command fails if a build is in neither, or not
stated by enough trusted keys.`,
	}, &flags, func(ctx context.Context, b *component.Builder, arch string, names []string) error {
		b.Sharing.NoBuild = true
		_, err := b.Build(ctx, arch, names...)
		return err
	}, func(ctx context.Context, b *component.Builder, files []lock.File) error {
		return b.Fetch(ctx, files)
	})
}

// remoteKey is one build in what neb cache ls --remote --json prints.
type remoteKey struct {
	Remote string `json:"remote"`
	Key    string `json:"key"`
}

// listRemote prints the builds that the remotes have.
func listRemote(ctx context.Context, s streams, flags *buildFlags, asJSON bool) error {
	sharing, err := flags.sharing(ctx)
	if err != nil {
		return err
	}
	report := []remoteKey{}
	for _, r := range sharing.Remotes {
		keys, err := r.Keys(ctx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			report = append(report, remoteKey{r.String(), key})
		}
	}
	if asJSON {
		return printJSON(s, report)
	}
	for _, k := range report {
		printLine(s.out, "%s  %s", k.Remote, k.Key)
	}
	return nil
}
