package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

func newEIFCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eif",
		Short: "Make, describe, sign and compare Enclave Image Files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	cmd.AddCommand(
		newEIFBuildCommand(s),
		newEIFDescribeCommand(s),
		newEIFExtractCommand(s),
		newEIFSignCommand(s),
		newEIFVerifyCommand(s),
		newEIFDiffCommand(s),
		newEIFPCRCommand(s),
		newEIFPolicyCommand(s),
	)
	return cmd
}

// inspectEIF reads a whole EIF and says what is in it and what is wrong with it.
func inspectEIF(ctx context.Context, path string, at time.Time) (*inspect.Report, func(), error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	report, err := inspect.Inspect(ctx, f, size, at)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return report, func() { f.Close() }, nil
}

// openEIF reads the structure of an EIF and refuses one that is broken.
func openEIF(path string) (*eif.File, *os.File, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	file, err := eif.Open(f, size)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, f, nil
}

// measureEIF computes the registers of an EIF that is whole.
func measureEIF(ctx context.Context, path string) (eif.Measurements, error) {
	file, in, err := openEIF(path)
	if err != nil {
		return eif.Measurements{}, err
	}
	defer in.Close()
	pass, err := file.Measure(ctx)
	if err != nil {
		return eif.Measurements{}, fmt.Errorf("%s: %w", path, err)
	}
	if pass.CRC != file.CRC {
		return eif.Measurements{}, fmt.Errorf("%s: the checksum in the header is %08x, and the file has %08x: it was cut, or changed", path, file.CRC, pass.CRC)
	}
	return pass.Measurements, nil
}

// notInput refuses to replace a file that is read, or was.
func notInput(flag, output string, inputs ...string) error {
	out, err := os.Stat(output)
	if err != nil {
		return nil // there is nothing to be replaced
	}
	for _, in := range inputs {
		if info, err := os.Stat(in); err == nil && os.SameFile(out, info) {
			return usagef("%s %s: would replace %s, which is read", flag, output, in)
		}
	}
	return nil
}

// openRegular opens a file for reading, and does not wait for the writer of a pipe before it refuses that.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// atFlag is the time that --at says, or now.
func atFlag(text string) (time.Time, error) {
	if text == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, usagef("--at %q: expected a time like 2026-11-23T12:00:00Z", text)
	}
	return at, nil
}

// pcrFlags are flags --pcrN that hold the value of a register each.
type pcrFlags map[int]*string

func addPCRFlags(cmd *cobra.Command, numbers ...int) pcrFlags {
	flags := pcrFlags{}
	for _, n := range numbers {
		flags[n] = cmd.Flags().String(fmt.Sprintf("pcr%d", n), "", fmt.Sprintf("expect PCR%d to have this value, in hexadecimal", n))
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
			return nil, usagef("--pcr%d: %v", n, err)
		}
		values[n] = pcr
	}
	return values, nil
}

// keyFlags are how a signing key is given.
type keyFlags struct {
	certificate, key string
	allowExpired     bool
}

func (k *keyFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.certificate, "signing-certificate", "", "PEM file with the certificate of the key; PCR8 measures it")
	cmd.Flags().StringVar(&k.key, "private-key", "", "PEM file with the private key (P-256, P-384 or P-521), or the ARN of a key in AWS KMS")
	cmd.Flags().BoolVar(&k.allowExpired, "allow-expired", false, "sign with a certificate that is not valid now, from which no enclave starts")
}

// signer is nil when no key was given.
func (k *keyFlags) signer(cmd *cobra.Command) (*sign.Signer, error) {
	switch {
	case k.certificate == "" && k.key == "":
		return nil, nil
	case k.certificate == "" || k.key == "":
		return nil, usagef("--signing-certificate and --private-key go together")
	}
	var signer *sign.Signer
	var err error
	if sign.IsKeyARN(k.key) {
		signer, err = sign.LoadKMS(cmd.Context(), k.key, k.certificate)
	} else {
		signer, err = sign.Load(k.key, k.certificate)
	}
	if err == nil && !k.allowExpired {
		signer.At = time.Now()
	}
	return signer, err
}

// warnExpired says it when a signing certificate is not valid now: the register is right, and no enclave will have it.
func warnExpired(s streams, path string, certificate *x509.Certificate) {
	if err := eif.CheckValidity(certificate, time.Now()); err != nil {
		complain(s, "warning: %s: %v", path, err)
	}
}
