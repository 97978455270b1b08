package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newEIFVerifyCommand(s streams) *cobra.Command {
	var certificate, at string
	var asJSON bool
	var pcrs pcrFlags
	cmd := &cobra.Command{
		Use:   "verify EIF",
		Short: "Check that an Enclave Image File is whole, and is the one you expect",
		Long: `Check an Enclave Image File: its checksum, its structure, its signature, that no later ramdisk brings names that would be
unpacked over the first one's, and that it is what --signing-certificate and --pcr0 to --pcr8 say. The exit status is 1
when anything is not as it should be, and the differences are printed.

Anyone can sign with a certificate of his own. Without an expected certificate, PCR0 or PCR8 the result is therefore
"consistent, signer not checked" at best, and never "verified".`,
		Example: "  neb eif verify hello.eif --signing-certificate cert.pem --pcr0 $PCR0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var want inspect.Expectation
			var err error
			if want.PCRs, err = pcrs.values(); err != nil {
				return err
			}
			if certificate != "" {
				text, err := sign.LoadCertificate(certificate)
				if err != nil {
					return err
				}
				if want.Certificate, err = eif.ParseCertificate(text); err != nil {
					return err
				}
			}
			now, err := atFlag(at)
			if err != nil {
				return err
			}
			report, done, err := inspectEIF(cmd.Context(), args[0], now)
			if err != nil {
				return err
			}
			defer done()

			findings := report.Verify(want)
			result := want.Result(report.Signed)
			if len(findings) > 0 {
				result = "wrong"
			}
			if asJSON {
				err = json.NewEncoder(s.out).Encode(struct {
					Result   string
					Findings []string
				}{result, append([]string{}, findings...)})
			} else {
				for _, line := range findings {
					fmt.Fprintf(s.out, "%s: %s\n", args[0], line)
				}
				_, err = fmt.Fprintf(s.out, "%s: %s\n", args[0], result)
			}
			if err == nil && len(findings) > 0 {
				err = errSaid
			}
			return err
		},
	}
	pcrs = addPCRFlags(cmd, 0, 1, 2, 8)
	cmd.Flags().StringVar(&certificate, "signing-certificate", "", "PEM file with the certificate that the file should be signed with")
	cmd.Flags().StringVar(&at, "at", "", "check the certificate's validity at this time (RFC 3339) instead of now")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}
