//go:build linux

package cli

import (
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/release"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newReleaseCommand(s streams) *cobra.Command {
	var (
		flags    buildFlags
		dir, key string
	)
	cmd := &cobra.Command{
		Use:   "release VERSION",
		Short: "Make a release: archive, checksums, bill of materials, provenance",
		Long: `Make a release of the blobs for both architectures: an archive in the layout of nitro-cli's
packages, SHA-256 sums, a bill of materials (CycloneDX), a provenance statement (SLSA v1), and the
kernel's source.

The blobs are built, or taken from the store. neb rejects blobs that were built in a chroot without
namespaces. The changelog must state whether PCR1 changed. The same source makes the same archive on every
machine; the other files also name the architecture of the build machine and the isolation.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			version := strings.TrimPrefix(args[0], "v")
			if err := release.CheckVersion(version); err != nil {
				return usagef("%v", err)
			}
			var signer crypto.Signer
			if key != "" {
				var err error
				if signer, err = sign.ReadKey(ctx, key); err != nil {
					return fmt.Errorf("--signing-key: %w", err)
				}
			}
			if _, err := os.Lstat(dir); err == nil {
				return fmt.Errorf("%s exists: remove it, or choose another --output", dir)
			}
			b, done, err := flags.builder(ctx, s)
			if err != nil {
				return err
			}
			defer done()
			r, remove, err := release.Build(ctx, b, version, neb.LockFile)
			if err != nil {
				return err
			}
			defer remove()
			r.Key = signer
			names, err := r.Make(ctx, dir)
			if err != nil {
				return err
			}
			for _, name := range names {
				printLine(s.out, "%v", filepath.Join(dir, name))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "release", "`directory` to create for the release")
	cmd.Flags().StringVar(&key, "signing-key", "",
		"PEM `file` or ARN of the private key to sign the provenance with (ECDSA P-256, P-384 or Ed25519)")
	flags.add(cmd)
	cmd.AddCommand(newReleaseIndexCommand(s))
	return cmd
}

func newReleaseIndexCommand(s streams) *cobra.Command {
	var (
		flags   buildFlags
		expires string
		names   []string // of keys
	)
	cmd := &cobra.Command{
		Use:   "index ARCHIVE --key KEY...",
		Short: "Sign the index that names a release as the newest one",
		Long: `Sign the index that names a release as the newest one, and write it beside the release's archive.

With --expires, neb makes a new index. Without it, neb checks that the index beside the archive names this
release, and adds signatures. Users require those of two keys. With --remote, neb then pushes the index, if
'neb verify --release' would accept it.`,
		Example: `  neb release index release/enclaves-blobs-1.2.0.tar.xz --key first.pem --expires 2027-03-31
  neb release index release/enclaves-blobs-1.2.0.tar.xz --key second.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			until, err := parseDay("--expires", expires)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				return usagef("--key is required")
			}
			var signers []crypto.Signer
			for _, name := range names {
				signer, err := sign.ReadKey(ctx, name)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				signers = append(signers, signer)
			}
			sharing, err := flags.sharing(ctx)
			if err != nil {
				return err
			}
			v, err := release.Verify(args[0], neb.LockFile)
			if err != nil {
				return err
			}
			index, err := v.SignIndex(until, signers...)
			if err != nil {
				return err
			}
			path := filepath.Join(filepath.Dir(args[0]), release.IndexName)
			if err := atomicfile.WriteBytes(path, index); err != nil {
				return err
			}
			printLine(s.out, "%v", path)
			if sharing == nil {
				return nil
			}
			if err := v.Newest(index, sharing.Keys, time.Now()); err != nil {
				return fmt.Errorf("not pushed: %w", err)
			}
			for _, r := range sharing.Remotes {
				if err := r.PushIndex(ctx, index); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&expires, "expires", "", "make an index that is valid before this `day`, in UTC")
	cmd.Flags().StringArrayVar(&names, "key", nil,
		"private `key`, a PEM file or an ARN (ECDSA P-256, P-384 or Ed25519); repeatable")
	flags.addRemote(cmd)
	return cmd
}
