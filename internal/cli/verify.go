package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
)

func newVerifyCommand(s streams) *cobra.Command {
	var (
		flags  buildFlags
		cached bool
		asJSON bool
		// of a release
		archive, key string
	)
	cmd := &cobra.Command{
		Use:   "verify [DIR | --release FILE]",
		Short: "Build again and say, file by file, whether DIR holds the same bytes",
		Long: `Build again what is in DIR (default: result), and say, file by file, whether these are the bytes that this source
and lock make. A directory that was built with kernel options, patches or a source of your own is verified with
the same flags.

With --release the archive of a release is verified: its checksums, its provenance, and its blobs against a build.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if archive == "" && key != "" {
				return usagef("--release-key %s: belongs to --release", key)
			}
			if archive != "" {
				if len(args) > 0 {
					return usagef("--release %s and %s: expected one of them", archive, args[0])
				}
				for _, name := range []string{"config-fragment", "kernel-source", "patch"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s: no release is made with it; expected --release without", name)
					}
				}
				return verifyRelease(cmd.Context(), s, archive, key, &flags, cached, asJSON)
			}
			dir := "result"
			if len(args) == 1 {
				dir = args[0]
			}
			wanted, err := output.Components(dir)
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			b, done, err := flags.builder(s)
			if err != nil {
				return err
			}
			defer done()
			b.Fresh = !cached
			built, err := sets(cmd.Context(), b, wanted)
			if err != nil {
				return err
			}
			findings, err := output.Compare(dir, built)
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			wrong := 0
			for _, f := range findings {
				if f.State != output.Same {
					wrong++
				}
			}
			if asJSON {
				if err := printJSON(s, findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					fmt.Fprintf(s.out, "%-10s  %s", f.State, f.Path)
					if f.State == output.Different && f.Expected != "" {
						fmt.Fprintf(s.out, "  (expected SHA-256 %s, found %s)", f.Expected, f.Found)
					}
					fmt.Fprintln(s.out)
				}
			}
			if wrong > 0 {
				return fmt.Errorf("%s: %d of %d files are not what this source and lock make", dir, wrong, len(findings))
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&cached, "cached", false, "trust what the store has of earlier builds, and build only what it lacks")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	cmd.Flags().StringVar(&archive, "release", "", "verify the archive of a release, a `file` with the others of the release beside it")
	cmd.Flags().StringVar(&key, "release-key", "", "with --release: the provenance must be signed by this public key, a PEM `file`")
	return cmd
}
