package cli

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

func newEIFPushCommand(s streams) *cobra.Command {
	var keyName string
	cmd := &cobra.Command{
		Use:   "push FILE HOST/REPOSITORY[:TAG]",
		Short: "Push an EIF to a registry",
		Long: `Push an EIF to a registry, and print its name there with the digest. Sections that the repository
has already, such as the kernel of another EIF, are not uploaded again.

The registers are annotations of the manifest, for people to read. neb computes them again wherever it reads
an EIF. With --key, neb also pushes a signed statement that refers to the manifest.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var key crypto.Signer
			if keyName != "" {
				var err error
				if key, err = sign.ReadKey(ctx, keyName); err != nil {
					return err
				}
			}
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
			if err == nil && key != nil {
				err = signEIF(ctx, r, digest, file.Arch(), key)
			}
			if err != nil {
				return err
			}
			return printLine(s.out, "%s%s@%s", remote.Scheme, repository, digest)
		},
	}
	cmd.Flags().StringVar(&keyName, "key", "",
		"private `key` that signs the statement, a PEM file or an ARN (ECDSA P-256, P-384 or Ed25519)")
	return cmd
}

// eifStatement is what a statement about an EIF says. Its key names the manifest, and that all bytes.
func eifStatement(e *remote.EIF) trust.Output {
	return trust.Output{Key: "eif-" + e.Manifest(), Manifest: e.Manifest(), Component: "eif"}
}

// signEIF pushes a signed statement about an EIF, unless there is one by the same key.
func signEIF(ctx context.Context, r *remote.Remote, digest, arch string, key crypto.Signer) error {
	e, err := r.EIF(ctx, digest)
	if err != nil {
		return err
	}
	own := new(trust.Keys)
	if _, err := own.Trust("own", trust.Builds, key.Public(), nil); err != nil {
		return err
	}
	// Statements of others that cannot be read are not ours.
	if names, _ := signersOf(ctx, e, own); len(names) > 0 {
		return nil
	}
	o := eifStatement(e)
	o.Arch, o.Time = arch, time.Now()
	statement, err := o.Sign(key)
	if err != nil {
		return err
	}
	return e.State(ctx, statement)
}

// signersOf returns the names of the trusted keys that signed statements about an EIF, each once, and why
// other statements do not count.
func signersOf(ctx context.Context, e *remote.EIF, keys *trust.Keys) (names []string, problems error) {
	envelopes, problems := e.Statements(ctx)
	for _, envelope := range envelopes {
		o, signers, err := keys.Verify(envelope, time.Now())
		if want := eifStatement(e); err == nil && (o.Key != want.Key || o.Component != want.Component) {
			err = fmt.Errorf("statement is about %q, expected %s", o.Key, want.Key)
		}
		if err != nil {
			problems = errors.Join(problems, err)
			continue
		}
		for _, k := range signers {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), problems
}

// openKeys reads the keys that this user trusts.
func openKeys() (*trust.Keys, error) {
	path, err := trust.Path()
	if err != nil {
		return nil, err
	}
	return trust.Load(path)
}

func newEIFPullCommand(s streams) *cobra.Command {
	var output string
	var pcrs pcrFlags
	var required int
	cmd := &cobra.Command{
		Use:   "pull HOST/REPOSITORY[:TAG|@DIGEST]",
		Short: "Pull an EIF from a registry",
		Long: `Pull an EIF from a registry, and print its name there with the digest. With --pcr0, --pcr1,
--pcr2 or --pcr8, neb writes the EIF only if its registers have these values; with --require, only if
that many of the keys that you trust (see 'neb trust') signed it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usagef("--output is required")
			}
			want, err := pcrs.values()
			if err != nil {
				return err
			}
			if required < 0 {
				return usagef("invalid --require %d: expected a positive number", required)
			}
			name, err := pullEIF(cmd.Context(), s, args[0], output, want, required)
			if err != nil {
				return err
			}
			return printLine(s.out, "%v", name)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write")
	cmd.Flags().IntVar(&required, "require", 0, "`number` of trusted keys that must have signed the EIF")
	pcrs = addPCRFlags(cmd, 0, 1, 2, 8)
	return cmd
}

// pullEIF writes the EIF with a name to path, if its registers are those of want and enough trusted keys
// signed it, and prints which did. It returns its name with the digest.
func pullEIF(
	ctx context.Context, s streams, name, path string, want map[int]eif.PCR, required int,
) (string, error) {
	repository, reference := remote.ParseEIF(name)
	r, err := remote.Open(ctx, repository)
	if err != nil {
		return "", err
	}
	e, err := r.EIF(ctx, reference)
	if err != nil {
		return "", err
	}
	keys, err := openKeys()
	if err != nil {
		return "", err
	}
	if required > 0 || keys.Has(trust.Builds) {
		names, problems := signersOf(ctx, e, keys)
		if len(names) < required {
			err := fmt.Errorf("%s: %d trusted keys signed it, %d are required", name, len(names), required)
			return "", errors.Join(err, problems)
		}
		complain(s, "%s: signed by %s", name, cmp.Or(strings.Join(names, ", "), "no trusted key"))
	}
	err = e.Pull(ctx, path, func(f *os.File, size int64) error {
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
	return remote.Scheme + repository + "@" + e.Digest(), err
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
			name, err := pullEIF(cmd.Context(), s, arg, args[i], nil, 0)
			if err != nil {
				return err
			}
			complain(s, "%s: pulled %s", args[i], name)
		}
		return run(cmd, args)
	}
	return cmd
}
