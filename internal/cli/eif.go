package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newEIFCommand(s streams) *cobra.Command {
	return newGroup("eif", "Build, describe, sign, verify and compare Enclave Image Files",
		newEIFBuildCommand(s),
		fromRegistry(s, newEIFDescribeCommand(s)),
		fromRegistry(s, newEIFExtractCommand(s)),
		fromRegistry(s, newEIFCheckCommand(s)),
		newEIFSignCommand(s),
		newEIFRepairCommand(s),
		fromRegistry(s, newEIFVerifyCommand(s)),
		fromRegistry(s, newEIFDiffCommand(s)),
		fromRegistry(s, newEIFPCRCommand(s)),
		newEIFPushCommand(s),
		newEIFPullCommand(s),
		newEIFPolicyCommand(s),
	)
}

// notInput rejects an output that would replace one of the inputs. Names of files that do not exist are
// ignored.
func notInput(flag, output string, inputs ...string) error {
	out, err := os.Stat(output)
	if err != nil {
		return nil // there is nothing to replace
	}
	for _, in := range inputs {
		if info, err := os.Stat(in); err == nil && os.SameFile(out, info) {
			return usagef("%s %s would replace the input %s", flag, output, in)
		}
	}
	return nil
}

// atFlag returns the time of --at, or now.
func atFlag(text string) (time.Time, error) {
	if text == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, usagef("invalid --at %q: expected a time like 2026-11-23T12:00:00Z", text)
	}
	return at, nil
}

// warnLayout warns of an EIF whose sections lie elsewhere than the format has them.
func warnLayout(s streams, path string, f *eif.File) {
	for _, l := range f.Layout {
		complain(s, "warning: %s: %v", path, l)
	}
}

// pcrFlags are the values of flags --pcrN, by register.
type pcrFlags map[int]*string

func addPCRFlags(cmd *cobra.Command, numbers ...int) pcrFlags {
	flags := pcrFlags{}
	for _, n := range numbers {
		name := fmt.Sprintf("pcr%d", n)
		flags[n] = cmd.Flags().String(name, "", fmt.Sprintf("expect this value of PCR%d, in `hex`adecimal",
			n))
	}
	return flags
}

func (f pcrFlags) values() (map[int]eif.PCR, error) {
	values := map[int]eif.PCR{}
	for n, text := range f {
		if *text == "" {
			continue
		}
		pcr, err := eif.ParsePCR(*text)
		if err != nil {
			return nil, usagef("invalid --pcr%d: %v", n, err)
		}
		values[n] = pcr
	}
	return values, nil
}

// expectPCRs checks registers of an EIF.
func expectPCRs(m eif.Measurements, want map[int]eif.PCR) error {
	for _, n := range slices.Sorted(maps.Keys(want)) {
		if found, ok := m.PCR(n); !ok || found != want[n] {
			return fmt.Errorf("wrong PCR%d: expected %v, found %v", n, want[n], found)
		}
	}
	return nil
}

// keyFlags name a signing key.
type keyFlags struct {
	certificate, key string
	allowExpired     bool
}

func (k *keyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&k.certificate, "signing-certificate", "",
		"PEM `file` with the certificate of the key, measured by PCR8")
	f.StringVar(&k.key, "private-key", "",
		"PEM `file` with the private key (P-256, P-384 or P-521), or the ARN of an AWS KMS key")
	f.BoolVar(&k.allowExpired, "allow-expired", false,
		"sign with a certificate that is not valid now; no enclave starts from it")
}

// signer returns nil if no key was given.
func (k *keyFlags) signer(ctx context.Context) (signer *sign.Signer, err error) {
	switch {
	case k.certificate == "" && k.key == "":
		return nil, nil
	case k.certificate == "":
		return nil, usagef("--private-key needs --signing-certificate")
	case k.key == "":
		return nil, usagef("--signing-certificate needs --private-key")
	case sign.IsARN(k.key):
		signer, err = sign.LoadKMS(ctx, k.key, k.certificate)
	default:
		signer, err = sign.Load(k.key, k.certificate)
	}
	if err == nil && !k.allowExpired {
		signer.At = time.Now()
	}
	return signer, err
}

// readCertificate reads a signing certificate from a PEM file.
func readCertificate(path string) (*x509.Certificate, error) {
	text, err := sign.LoadCertificate(path)
	if err != nil {
		return nil, err
	}
	return eif.ParseCertificate(text)
}

// warnExpired warns of a signing certificate that is not valid now: no enclave starts from an image with it.
func warnExpired(s streams, path string, certificate *x509.Certificate) {
	if err := eif.CheckValidity(certificate, time.Now()); err != nil {
		complain(s, "warning: %s: %v", path, err)
	}
}

func printMeasurements(s streams, m eif.Measurements) error {
	return printJSON(s, struct{ Measurements eif.Measurements }{m})
}
