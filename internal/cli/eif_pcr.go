package cli

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newEIFPCRCommand(s streams) *cobra.Command {
	var input, certificate, role, instance string
	cmd := &cobra.Command{
		Use:   "pcr (--input FILE | --signing-certificate FILE | --role-arn ARN | --instance-id ID)...",
		Short: "Compute the register of a file, a certificate, a role or an instance",
		Long: `Print platform configuration registers, in JSON as nitro-cli pcr does: that of the content of a file ("PCR"), of a
signing certificate (PCR8), of the role of the parent instance (PCR3), or of its instance ID (PCR4).`,
		Example: `  neb eif pcr --signing-certificate cert.pem
  neb eif pcr --role-arn arn:aws:iam::123456789012:role/Webserver --instance-id i-0123456789abcdef0`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			pcrs := map[string]eif.PCR{}
			if input != "" {
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer f.Close()
				if pcrs["PCR"], err = eif.MeasureContent(f); err != nil {
					return fmt.Errorf("%s: %w", input, err)
				}
			}
			if certificate != "" {
				text, err := sign.LoadCertificate(certificate)
				if err != nil {
					return err
				}
				parsed, err := eif.ParseCertificate(text)
				if err != nil {
					return err
				}
				warnExpired(s, certificate, parsed)
				pcrs["PCR8"] = eif.PCR8(parsed)
			}
			if err := parentPCRs(role, instance, func(n int, pcr eif.PCR) { pcrs[fmt.Sprintf("PCR%d", n)] = pcr }); err != nil {
				return err
			}
			if len(pcrs) == 0 {
				return usagef("say what to measure: --input, --signing-certificate, --role-arn or --instance-id")
			}
			return printJSON(s, pcrs)
		},
	}
	cmd.Flags().StringVar(&input, "input", "", "a file; its register is printed as PCR")
	cmd.Flags().StringVar(&certificate, "signing-certificate", "", "PEM file with a signing certificate")
	addParentFlags(cmd, &role, &instance)
	return cmd
}

func newEIFPolicyCommand(s streams) *cobra.Command {
	var role, instance string
	var only []int
	cmd := &cobra.Command{
		Use:   "policy EIF",
		Short: "Print a condition for a KMS key policy that only this enclave meets",
		Long: `Print the Condition of a statement in an AWS KMS key policy that allows an operation to an enclave with the registers of
an Enclave Image File, as reported in its attestation document.

All registers that the file determines are used, or those that --pcr names. PCR1 or PCR2 alone say nothing about the
other half of the enclave, and are refused without PCR0 or PCR8.`,
		Example: "  neb eif policy hello.eif --pcr 0 --pcr 8 --role-arn arn:aws:iam::123456789012:role/Webserver",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := measureEIF(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			policy := inspect.Policy{}
			if err := policy.Add(m, only...); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if _, signer := policy[8]; signer {
				certificate, err := signingCertificate(args[0])
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				warnExpired(s, args[0], certificate)
			}
			if err := parentPCRs(role, instance, func(n int, pcr eif.PCR) { policy[n] = pcr }); err != nil {
				return err
			}
			condition, err := policy.Condition()
			if err != nil {
				return err
			}
			return printJSON(s, condition)
		},
	}
	cmd.Flags().IntSliceVar(&only, "pcr", nil, "use this register of the file (0, 1, 2 or 8); repeatable (default: all it has)")
	addParentFlags(cmd, &role, &instance)
	return cmd
}

// signingCertificate is the one in the signature of an EIF.
func signingCertificate(path string) (*x509.Certificate, error) {
	file, in, err := openEIF(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	entries, err := file.Signatures()
	if err != nil {
		return nil, err
	}
	return eif.ParseCertificate(entries[0].Certificate)
}

func addParentFlags(cmd *cobra.Command, role, instance *string) {
	cmd.Flags().StringVar(role, "role-arn", "", "ARN of the IAM role of the parent instance, which PCR3 measures")
	cmd.Flags().StringVar(instance, "instance-id", "", "ID of the parent instance, which PCR4 measures")
}

// parentPCRs gives the registers that the parent instance determines.
func parentPCRs(role, instance string, use func(int, eif.PCR)) error {
	for _, p := range []struct {
		n           int
		flag, value string
		valid       func(string) error
	}{
		{3, "role-arn", role, inspect.CheckRoleARN},
		{4, "instance-id", instance, inspect.CheckInstanceID},
	} {
		if p.value == "" {
			continue
		}
		if err := p.valid(p.value); err != nil {
			return usagef("--%s: %v", p.flag, err)
		}
		use(p.n, eif.Extend([]byte(p.value)))
	}
	return nil
}
