package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
)

func newAttestCACommand(s streams) *cobra.Command {
	return newGroup("ca", "Manage the development root, under which neb run signs attestation documents",
		newAttestCAInitCommand(s), newAttestCAShowCommand(s))
}

// authorityDir is the directory of a root: the argument, or the user's own.
func authorityDir(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	return devca.Dir()
}

func newAttestCAInitCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Create the development root",
		Long: `Create a root certificate and its key in DIR (default: neb/attestation-ca in the user's
configuration directory). 'neb run' signs attestation documents under this root, and 'neb attest verify --root' accepts
them. It is not the root of AWS, and its subject says so.

Without it, each 'neb run' signs under a root of its own, which exists only as long as the enclave.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := authorityDir(args)
			if err != nil {
				return err
			}
			if _, err := devca.Init(dir); errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s: a root exists already; remove the directory to create a new one", dir)
			} else if err != nil {
				return err
			}
			return printLine(s.out, "%v", dir)
		},
	}
}

func newAttestCAShowCommand(s streams) *cobra.Command {
	var pem bool
	cmd := &cobra.Command{
		Use:     "show [DIR]",
		Short:   "Print the certificate of the development root",
		Example: `  neb attest ca show --pem > root.pem`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := authorityDir(args)
			if err != nil {
				return err
			}
			root, err := devca.Load(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; run 'neb attest ca init'", err)
			} else if err != nil {
				return err
			}
			if pem {
				_, err = s.out.Write(root.PEM())
				return err
			}
			c := root.Certificate
			const day = "2006-01-02"
			printLine(s.out, "directory: %s", dir)
			printLine(s.out, "subject: %s", c.Subject)
			return printLine(s.out, "valid: %s to %s", c.NotBefore.Format(day), c.NotAfter.Format(day))
		},
	}
	cmd.Flags().BoolVar(&pem, "pem", false, "print the certificate in PEM, for 'neb attest verify --root'")
	return cmd
}
