package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
)

func newEIFPushCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "push FILE HOST/REPOSITORY[:TAG]",
		Short: "Push an EIF to a registry",
		Long: `Push an EIF to a registry, and print its name there with the digest. Sections that the repository
has already, such as the kernel of another EIF, are not uploaded again.

The registers are annotations of the manifest, for people to read. neb computes them again wherever it reads
an EIF.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			file, in, err := inspect.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			m, err := inspect.Registers(ctx, file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			repository, tag := remote.ParseEIF(args[1])
			if strings.Contains(tag, ":") {
				return usagef("invalid name %q: expected a tag, found a digest", args[1])
			}
			r, err := remote.Open(ctx, repository)
			if err != nil {
				return err
			}
			digest, err := r.PushEIF(ctx, file, in, m, tag)
			if err != nil {
				return err
			}
			return printLine(s.out, "%s%s@%s", remote.Scheme, repository, digest)
		},
	}
}

func newEIFPullCommand(s streams) *cobra.Command {
	var output string
	var pcrs pcrFlags
	cmd := &cobra.Command{
		Use:   "pull HOST/REPOSITORY[:TAG|@DIGEST]",
		Short: "Pull an EIF from a registry",
		Long: `Pull an EIF from a registry, and print its name there with the digest. With --pcr0, --pcr1,
--pcr2 or --pcr8, neb writes the EIF only if its registers have these values.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usagef("--output is required")
			}
			want, err := pcrs.values()
			if err != nil {
				return err
			}
			name, err := pullEIF(cmd.Context(), args[0], output, want)
			if err != nil {
				return err
			}
			return printLine(s.out, "%v", name)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write")
	pcrs = addPCRFlags(cmd, 0, 1, 2, 8)
	return cmd
}

// pullEIF writes the EIF with a name to path, if its registers are those of want. It returns its name with
// the digest.
func pullEIF(ctx context.Context, name, path string, want map[int]eif.PCR) (string, error) {
	repository, reference := remote.ParseEIF(name)
	r, err := remote.Open(ctx, repository)
	if err != nil {
		return "", err
	}
	digest, err := r.PullEIF(ctx, reference, path, func(f *os.File, size int64) error {
		file, err := eif.Open(f, size)
		if err != nil {
			return err
		}
		m, err := inspect.Registers(ctx, file)
		if err != nil {
			return err
		}
		return expectPCRs(m, want)
	})
	return remote.Scheme + repository + "@" + digest, err
}

// fromRegistry lets the arguments of a command be names of EIFs in registries, which begin with oci://. They
// are pulled into a temporary directory for the time that the command runs.
func fromRegistry(s streams, cmd *cobra.Command) *cobra.Command {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for i, arg := range args {
			if !strings.HasPrefix(arg, remote.Scheme) {
				continue
			}
			dir, err := os.MkdirTemp("", "neb-eif-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			args[i] = filepath.Join(dir, "pulled.eif")
			name, err := pullEIF(cmd.Context(), arg, args[i], nil)
			if err != nil {
				return err
			}
			complain(s, "%s: pulled %s", args[i], name)
		}
		return run(cmd, args)
	}
	return cmd
}
