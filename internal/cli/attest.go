package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

func newAttestCommand(s streams) *cobra.Command {
	return newGroup("attest", "Verify attestation documents, and manage the development root",
		newAttestVerifyCommand(s), newAttestCACommand(s))
}

// attestVerify are the flags of neb attest verify.
type attestVerify struct {
	want                       inspect.Requirements
	pcrs                       pcrFlags
	eif, root, at              string
	nonce, userData, publicKey string
	asJSON                     bool
}

// attestReport is what neb attest verify --json prints.
type attestReport struct {
	Result    inspect.DocResult
	Root      *rootReport       `json:",omitempty"` // who vouches for the document
	Findings  []inspect.Finding // why the result is "rejected"
	ModuleID  string
	Time      time.Time
	PCRs      map[string]string // hexadecimal, by index
	PublicKey string            `json:",omitempty"` // hexadecimal, as are the next two
	UserData  string            `json:",omitempty"`
	Nonce     string            `json:",omitempty"`
	Debug     bool
}

// rootReport names a root certificate.
type rootReport struct {
	Subject string
	SHA256  string // of the certificate's DER
	AWS     bool   // it is the root of the commercial AWS regions
}

func newAttestVerifyCommand(s streams) *cobra.Command {
	var o attestVerify
	cmd := &cobra.Command{
		Use:   "verify DOCUMENT",
		Short: "Verify an attestation document",
		Long: `Verify an attestation document of a Nitro enclave: its form, its signature, its chain of
certificates up to the AWS root, and the values that you expect. DOCUMENT is a file, or - for standard input,
in binary, base64 or hexadecimal.

A document proves something only if it is compared with the registers of the enclave that you trust, and with
a nonce that you chose for this request. The exit status is therefore 1 without an expected PCR0 or PCR8 (or
--eif), unless --any-pcr is given, and without a --nonce, unless --any-nonce is given.`,
		Example: `  neb attest verify document.bin --eif hello.eif --nonce 5f3a9c
  neb attest verify document.b64 --pcr0 $PCR0 --any-nonce --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), s, args[0]) },
	}
	var numbers []int
	for n := range 32 {
		numbers = append(numbers, n)
	}
	o.pcrs = addPCRFlags(cmd, numbers...)
	for _, n := range numbers[5:] {
		if n != 8 {
			cmd.Flags().Lookup(fmt.Sprintf("pcr%d", n)).Hidden = true // they are all alike
		}
	}
	f := cmd.Flags()
	f.StringVar(&o.eif, "eif", "", "expect the registers of this EIF `file`")
	f.StringVar(&o.nonce, "nonce", "", "expect this nonce, in `hex`adecimal")
	f.StringVar(&o.userData, "user-data", "", "expect this user data, in `hex`adecimal")
	f.StringVar(&o.publicKey, "public-key", "",
		"expect this public key: `hex`adecimal, or @FILE (DER or PEM)")
	f.StringVar(&o.root, "root", "",
		"trust the root certificate in this `file` (PEM or DER) instead of that of the commercial AWS "+
			"regions")
	f.StringVar(&o.at, "at", "", "check the certificates at this `time` (RFC 3339) instead of now")
	f.BoolVar(&o.want.AnyPCR, "any-pcr", false, "accept any enclave")
	f.BoolVar(&o.want.AnyNonce, "any-nonce", false, "accept any nonce: the document may be old")
	f.BoolVar(&o.want.AllowDebug, "allow-debug", false,
		"accept an enclave in debug mode, whose registers are zero")
	f.BoolVar(&o.asJSON, "json", false, "print the document and the result as JSON")
	return cmd
}

func (o *attestVerify) run(ctx context.Context, s streams, path string) error {
	if err := o.expect(ctx); err != nil {
		return err
	}
	var err error
	if o.want.At, err = atFlag(o.at); err != nil {
		return err
	}
	o.want.Root = nsm.AWSRoot()
	if o.root != "" {
		if o.want.Root, err = sign.ReadCertificate(o.root); err != nil {
			return fmt.Errorf("--root: %w", err)
		} else if !o.want.Root.IsCA {
			return fmt.Errorf("--root: %s: expected the certificate of an authority", o.root)
		}
	}
	d, err := inspect.ReadDocument(path)
	if err != nil {
		return err
	}
	result, findings := inspect.CheckDocument(d, o.want)
	if err := o.print(s, path, d, result, findings); err != nil {
		return err
	}
	if len(findings) > 0 {
		return errSaid
	}
	return nil
}

// expect sets the expected values.
func (o *attestVerify) expect(ctx context.Context) error {
	want := &o.want.Expectation
	want.PCRs = map[int][]byte{}
	pcrs, err := o.pcrs.values()
	if err != nil {
		return err
	}
	if o.eif != "" {
		m, err := inspect.Measure(ctx, o.eif)
		if err != nil {
			return err
		}
		want.PCRs[0], want.PCRs[1], want.PCRs[2] = m.PCR0[:], m.PCR1[:], m.PCR2[:]
		if m.PCR8 != nil {
			want.PCRs[8] = m.PCR8[:]
		}
	}
	for n, pcr := range pcrs {
		if old, ok := want.PCRs[n]; ok && !bytes.Equal(old, pcr[:]) {
			return usagef("--pcr%d contradicts --eif: the file has %x", n, old)
		}
		want.PCRs[n] = pcr[:]
	}
	if file, ok := strings.CutPrefix(o.publicKey, "@"); ok {
		if want.PublicKey, err = sign.ReadDER(file); err != nil {
			return fmt.Errorf("--public-key: %w", err)
		}
		o.publicKey = ""
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
		if *field.to, err = hex.DecodeString(field.text); err != nil {
			return usagef("invalid --%s %q: expected hexadecimal digits", field.flag, field.text)
		}
	}
	return nil
}

func (o *attestVerify) print(
	s streams, path string, d *nsm.Document, result inspect.DocResult, findings []inspect.Finding,
) error {
	var root *rootReport
	unsigned := func(f inspect.Finding) bool { return f.Code == inspect.DocSignature }
	if !slices.ContainsFunc(findings, unsigned) {
		sum := sha256.Sum256(o.want.Root.Raw)
		root = &rootReport{o.want.Root.Subject.String(), hex.EncodeToString(sum[:]),
			o.want.Root.Equal(nsm.AWSRoot())}
	}
	if !o.asJSON {
		for _, f := range findings {
			printLine(s.out, "%s: %s", path, f.Text)
		}
		line := fmt.Sprintf("%s: %s; %q, %s", path, result, d.ModuleID, d.Time.Format(time.RFC3339))
		if root != nil {
			line += fmt.Sprintf("; root %s", root.Subject)
		}
		return printLine(s.out, "%v", line)
	}
	r := attestReport{
		Result: result, Root: root, Findings: append([]inspect.Finding{}, findings...),
		ModuleID: d.ModuleID, Time: d.Time, PCRs: map[string]string{},
		PublicKey: hex.EncodeToString(d.PublicKey), UserData: hex.EncodeToString(d.UserData),
		Nonce: hex.EncodeToString(d.Nonce), Debug: d.Debug(),
	}
	for _, n := range slices.Sorted(maps.Keys(d.PCRs)) {
		r.PCRs[fmt.Sprint(n)] = hex.EncodeToString(d.PCRs[n])
	}
	return printJSON(s, r)
}
