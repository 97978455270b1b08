package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newEIFSignCommand(s streams) *cobra.Command {
	var key keyFlags
	cmd := &cobra.Command{
		Use:   "sign EIF --signing-certificate FILE --private-key FILE|ARN",
		Short: "Sign an Enclave Image File, or replace its signature",
		Long: `Sign an Enclave Image File in place, atomically. An existing signature is replaced. The
measurements, now with PCR8, go to standard output, in the form of nitro-cli sign-eif.`,
		Example: "  neb eif sign hello.eif --signing-certificate cert.pem --private-key key.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signer, err := key.signer(cmd.Context())
			if err != nil {
				return err
			}
			if signer == nil {
				return usagef("--signing-certificate and --private-key are required")
			}
			file, in, err := inspect.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			warnLayout(s, args[0], file)
			var m eif.Measurements
			err = atomicfile.Write(args[0], func(out *os.File) error {
				m, err = sign.EIF(cmd.Context(), out, file, signer)
				in.Close() // Windows does not replace an open file
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printMeasurements(s, m)
		},
	}
	key.add(cmd)
	alwaysJSON(cmd)
	return cmd
}
