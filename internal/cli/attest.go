package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

func newAttestCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attest",
		Short: "Verify what an enclave says about itself",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	cmd.AddCommand(newAttestVerifyCommand(s))
	return cmd
}

// attestVerify are the options of `neb attest verify`.
type attestVerify struct {
	pcrs                       pcrFlags
	eif, root, at              string
	nonce, userData, publicKey string
	anyPCR, anyNonce           bool
	allowDebug, allowEmulated  bool
	asJSON                     bool
}

func newAttestVerifyCommand(s streams) *cobra.Command {
	var o attestVerify
	cmd := &cobra.Command{
		Use:   "verify DOCUMENT",
		Short: "Verify an attestation document",
		Long: `Verify an attestation document of a Nitro enclave: its form, its signature, the chain of certificates up to the AWS root,
and that it says what you expect. DOCUMENT is a file, or - for standard input; binary, base64 or hexadecimal.

A document proves something only if it is compared with the registers of the enclave you trust and with a nonce that
you have chosen for this one occasion. Without an expected PCR0 or PCR8 (or --eif) and a --nonce the exit status is
therefore 1, unless --any-pcr or --any-nonce says that it is not wanted.`,
		Example: `  neb attest verify document.bin --eif hello.eif --nonce 5f3a9c
  neb attest verify document.b64 --pcr0 $PCR0 --any-nonce --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), s, args[0]) },
	}
	numbers := make([]int, 32)
	for n := range numbers {
		numbers[n] = n
	}
	o.pcrs = addPCRFlags(cmd, numbers...)
	for _, n := range numbers[5:] {
		if n != 8 {
			cmd.Flags().Lookup(fmt.Sprintf("pcr%d", n)).Hidden = true // they are all alike
		}
	}
	f := cmd.Flags()
	f.StringVar(&o.eif, "eif", "", "expect the registers of this Enclave Image File")
	f.StringVar(&o.nonce, "nonce", "", "expect this nonce, in hexadecimal")
	f.StringVar(&o.userData, "user-data", "", "expect this user data, in hexadecimal")
	f.StringVar(&o.publicKey, "public-key", "", "expect this public key: hexadecimal, or a file (DER or PEM) after @")
	f.StringVar(&o.root, "root", "", "PEM or DER file with the root to trust, instead of that of the commercial AWS regions")
	f.StringVar(&o.at, "at", "", "check certificates at this time (RFC 3339) instead of now")
	f.BoolVar(&o.anyPCR, "any-pcr", false, "do not ask which enclave it is")
	f.BoolVar(&o.anyNonce, "any-nonce", false, "do not ask whether the document is fresh")
	f.BoolVar(&o.allowDebug, "allow-debug", false, "accept an enclave in debug mode, whose registers are zero")
	f.BoolVar(&o.allowEmulated, "allow-emulated", false, "accept a document without a signature, as neb run makes them: for tests")
	f.BoolVar(&o.asJSON, "json", false, "print the document and the result as JSON")
	return cmd
}

func (o *attestVerify) run(ctx context.Context, s streams, path string) error {
	want, err := o.expectation(ctx)
	if err != nil {
		return err
	}
	at, err := atFlag(o.at)
	if err != nil {
		return err
	}
	root := nsm.AWSRoot()
	if o.root != "" {
		if root, err = readRoot(o.root); err != nil {
			return err
		}
	}
	raw, err := readDocument(path)
	if err != nil {
		return err
	}
	d, err := nsm.Parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}

	var findings []string
	find := func(err error) { findings = append(findings, err.Error()) }
	switch err := d.Verify(root, at); {
	case err == nil || errors.Is(err, nsm.ErrEmulated) && o.allowEmulated:
	case errors.Is(err, nsm.ErrEmulated):
		find(fmt.Errorf("%w (--allow-emulated accepts that)", err))
	default:
		find(err)
	}
	debug := d.Debug()
	if debug && !o.allowDebug {
		find(errors.New("PCR0 is zero: the enclave runs in debug mode, and its registers say nothing (--allow-debug accepts that)"))
	}
	for _, err := range d.Compare(want) {
		find(err)
	}
	identified := false
	for _, n := range slices.Sorted(maps.Keys(want.PCRs)) {
		zero := eif.PCR(want.PCRs[n]).IsZero()
		if zero && !o.allowDebug {
			find(fmt.Errorf("PCR%d is expected to be zero, as it is in any enclave in debug mode (--allow-debug accepts that)", n))
		}
		identified = identified || !zero && (n == 0 || n == 8)
	}
	if !identified && !o.anyPCR {
		find(errors.New("nothing says which enclave is expected: give --eif, --pcr0 or --pcr8, or --any-pcr"))
	}
	if want.Nonce == nil && !o.anyNonce {
		find(errors.New("nothing says whether the document is fresh: give the --nonce that you sent, or --any-nonce"))
	}
	if err := o.print(s, path, d, findings); err != nil {
		return err
	}
	if len(findings) > 0 {
		return errSaid
	}
	return nil
}

func (o *attestVerify) expectation(ctx context.Context) (nsm.Expectation, error) {
	want := nsm.Expectation{PCRs: map[int][]byte{}}
	pcrs, err := o.pcrs.values()
	if err != nil {
		return want, err
	}
	if o.eif != "" {
		m, err := measureEIF(ctx, o.eif)
		if err != nil {
			return want, err
		}
		want.PCRs[0], want.PCRs[1], want.PCRs[2] = m.PCR0[:], m.PCR1[:], m.PCR2[:]
		if m.PCR8 != nil {
			want.PCRs[8] = m.PCR8[:]
		}
	}
	for n, pcr := range pcrs {
		if old, ok := want.PCRs[n]; ok && !bytes.Equal(old, pcr[:]) {
			return want, usagef("--pcr%d and --eif contradict each other: the file has %x", n, old)
		}
		want.PCRs[n] = pcr[:]
	}
	for _, field := range []struct {
		flag, text string
		to         *[]byte
	}{
		{"nonce", o.nonce, &want.Nonce},
		{"user-data", o.userData, &want.UserData},
		{"public-key", o.publicKey, &want.PublicKey},
	} {
		if field.text == "" {
			continue
		}
		if file, ok := strings.CutPrefix(field.text, "@"); ok && field.flag == "public-key" {
			if *field.to, err = readDER(file); err != nil {
				return want, fmt.Errorf("--public-key: %w", err)
			}
			continue
		}
		if *field.to, err = hex.DecodeString(field.text); err != nil {
			return want, usagef("--%s %q: expected hexadecimal digits", field.flag, field.text)
		}
	}
	return want, nil
}

// attestReport is what neb attest verify --json prints.
type attestReport struct {
	Result    string
	Findings  []string
	ModuleID  string
	Time      time.Time
	PCRs      map[string]string
	PublicKey string `json:",omitempty"`
	UserData  string `json:",omitempty"`
	Nonce     string `json:",omitempty"`
	Emulated  bool
	Debug     bool
}

func (o *attestVerify) print(s streams, path string, d *nsm.Document, findings []string) error {
	result := "verified"
	switch {
	case len(findings) > 0:
		result = "refused"
	case d.Emulated:
		result = "as expected, but not signed"
	case d.Debug():
		result = "signed, by an enclave in debug mode"
	}
	if !o.asJSON {
		for _, line := range findings {
			fmt.Fprintf(s.out, "%s: %s\n", path, line)
		}
		_, err := fmt.Fprintf(s.out, "%s: %s; %s, %s\n", path, result, d.ModuleID, d.Time.Format(time.RFC3339))
		return err
	}
	r := attestReport{
		Result: result, Findings: append([]string{}, findings...), ModuleID: d.ModuleID, Time: d.Time, PCRs: map[string]string{},
		PublicKey: hex.EncodeToString(d.PublicKey), UserData: hex.EncodeToString(d.UserData), Nonce: hex.EncodeToString(d.Nonce),
		Emulated: d.Emulated, Debug: d.Debug(),
	}
	for _, n := range slices.Sorted(maps.Keys(d.PCRs)) {
		r.PCRs[fmt.Sprint(n)] = hex.EncodeToString(d.PCRs[n])
	}
	return printJSON(s, r)
}

// readDocument reads a document in one of the forms in which they are passed around.
func readDocument(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	const most = 256 << 10 // more than any document, in any of the forms
	raw, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(raw) > most {
		return nil, fmt.Errorf("%s has more than %d bytes, and an attestation document is much smaller", path, most)
	}
	text := strings.Join(strings.Fields(string(raw)), "")
	if b, err := hex.DecodeString(text); err == nil && len(b) > 0 {
		return b, nil
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(text); err == nil && len(b) > 0 {
			return b, nil
		}
	}
	return raw, nil
}

// readDER reads a file that holds DER or one PEM block of it, and not by mistake a private key: what does not fit is printed.
func readDER(path string) ([]byte, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil, fmt.Errorf("%s: expected a public key or certificate, found a %s", path, block.Type)
		}
		return block.Bytes, nil
	}
	return text, nil
}

func readRoot(path string) (*x509.Certificate, error) {
	der, err := readDER(path)
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("--root %s: %w", path, err)
	}
	return root, nil
}
