//go:build linux

package cli

import (
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
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
				if signer, err = sign.ReadPrivateKey(key); err != nil {
					return fmt.Errorf("--signing-key: %w", err)
				}
			}
			if _, err := os.Lstat(dir); err == nil {
				return fmt.Errorf("%s exists: remove it, or choose another --output", dir)
			}
			b, done, err := flags.builder(s)
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
		"PEM `file` with the key to sign the provenance with (ECDSA P-256, P-384 or Ed25519)")
	flags.add(cmd)
	return cmd
}
