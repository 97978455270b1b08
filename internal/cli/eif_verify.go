package cli

import (
	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

// eifVerifyReport is what neb eif verify --json prints.
type eifVerifyReport struct {
	Result   inspect.Result
	Findings []inspect.Finding // why the result is "rejected"
}

func newEIFVerifyCommand(s streams) *cobra.Command {
	var certificate, at string
	var asJSON bool
	var pcrs pcrFlags
	cmd := &cobra.Command{
		Use:   "verify EIF",
		Short: "Verify an Enclave Image File against expected values",
		Long: `Verify an Enclave Image File: its checksum, its structure, its signature, that no later ramdisk
has names that replace files of the first one, and the values expected with --signing-certificate and --pcr0
to --pcr8. neb prints each finding. The exit status is 1 if there is any.

Anyone can sign an image with a certificate of their own. The result is therefore "verified" only if a
certificate, PCR0 or PCR8 was expected. Otherwise it is "partial" if another register was expected,
"signer-unchecked", or "unsigned".`,
		Example: "  neb eif verify hello.eif --signing-certificate cert.pem --pcr0 $PCR0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var want inspect.Expectation
			var err error
			if want.PCRs, err = pcrs.values(); err != nil {
				return err
			}
			if certificate != "" {
				if want.Certificate, err = readCertificate(certificate); err != nil {
					return err
				}
			}
			now, err := atFlag(at)
			if err != nil {
				return err
			}
			report, in, err := inspect.ReadFile(cmd.Context(), args[0], now)
			if err != nil {
				return err
			}
			defer in.Close()

			result, findings := report.Verify(want)
			if asJSON {
				err = printJSON(s, eifVerifyReport{result, append([]inspect.Finding{}, findings...)})
			} else {
				for _, f := range findings {
					printLine(s.out, "%s: %s", args[0], f.Text)
				}
				err = printLine(s.out, "%s: %s", args[0], result)
			}
			if err == nil && len(findings) > 0 {
				err = errSaid
			}
			return err
		},
	}
	pcrs = addPCRFlags(cmd, 0, 1, 2, 8)
	cmd.Flags().StringVar(&certificate, "signing-certificate", "",
		"expect a signature with the certificate in this PEM `file`")
	cmd.Flags().StringVar(&at, "at", "",
		"check the certificate's validity at this `time` (RFC 3339) instead of now")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}
