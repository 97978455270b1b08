package cli

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFPCRCommand(s streams) *cobra.Command {
	var input, certificate string
	var parent parentFlags
	cmd := &cobra.Command{
		Use:   "pcr (--input FILE | --signing-certificate FILE | --role-arn ARN | --instance-id ID)...",
		Short: "Compute the register of a file, a certificate, a role or an instance",
		Long: `Print platform configuration registers as JSON, in the form of nitro-cli pcr: that of a file's
content ("PCR"), of a signing certificate (PCR8), of the role of the parent instance (PCR3), or of its
instance ID (PCR4).`,
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
				parsed, err := readCertificate(certificate)
				if err != nil {
					return err
				}
				warnExpired(s, certificate, parsed)
				pcrs["PCR8"] = eif.PCR8(parsed)
			}
			add := func(n int, pcr eif.PCR) { pcrs[fmt.Sprintf("PCR%d", n)] = pcr }
			if err := parent.measure(add); err != nil {
				return err
			}
			if len(pcrs) == 0 {
				return usagef("--input, --signing-certificate, --role-arn or --instance-id is required")
			}
			return printJSON(s, pcrs)
		},
	}
	cmd.Flags().StringVar(&input, "input", "", "`file` to measure; its register is printed as PCR")
	cmd.Flags().StringVar(&certificate, "signing-certificate", "", "PEM `file` with a signing certificate")
	parent.add(cmd)
	return cmd
}

func newEIFPolicyCommand(s streams) *cobra.Command {
	var parent parentFlags
	var only []int
	cmd := &cobra.Command{
		Use:   "policy EIF",
		Short: "Print a KMS key policy condition that only this enclave meets",
		Long: `Print the Condition of a statement in an AWS KMS key policy that allows an operation only to an
enclave whose attested registers are those of an Enclave Image File.

The condition has all registers of the file, or those given with --pcr. PCR1 and PCR2 are rejected without
PCR0 or PCR8: each of them covers only half of the enclave.`,
		Example: "  neb eif policy hello.eif --pcr 0 --pcr 8 --role-arn arn:aws:iam::123456789012:role/Web",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := inspect.Measure(cmd.Context(), args[0])
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
			if err := parent.measure(func(n int, pcr eif.PCR) { policy[n] = pcr }); err != nil {
				return err
			}
			condition, err := policy.Condition()
			if err != nil {
				return err
			}
			return printJSON(s, condition)
		},
	}
	cmd.Flags().IntSliceVar(&only, "pcr", nil,
		"`register` of the file to use: 0, 1, 2 or 8; repeatable (default: all)")
	parent.add(cmd)
	return cmd
}

// signingCertificate returns the certificate in the signature of an EIF.
func signingCertificate(path string) (*x509.Certificate, error) {
	file, in, err := inspect.Open(path)
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

// parentFlags name the parent instance.
type parentFlags struct{ role, instance string }

func (p *parentFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.role, "role-arn", "",
		"`ARN` of the parent instance's IAM role, which PCR3 measures")
	cmd.Flags().StringVar(&p.instance, "instance-id", "", "`ID` of the parent instance, which PCR4 measures")
}

// measure passes the registers that the parent instance determines to use.
func (p *parentFlags) measure(use func(int, eif.PCR)) error {
	if p.role != "" {
		if err := inspect.CheckRoleARN(p.role); err != nil {
			return usagef("--role-arn: %v", err)
		}
		use(3, eif.Extend([]byte(p.role)))
	}
	if p.instance != "" {
		if err := inspect.CheckInstanceID(p.instance); err != nil {
			return usagef("--instance-id: %v", err)
		}
		use(4, eif.Extend([]byte(p.instance)))
	}
	return nil
}
