// Package inspect looks into Enclave Image Files of any origin: what they hold, whether they are consistent, whether
// they are what was expected, and where two of them differ.
package inspect

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Report is all that can be found out about an Enclave Image File by reading it.
type Report struct {
	File        *eif.File
	Pass        *eif.Pass
	Metadata    *eif.Metadata     // nil where there are none, or none that can be read
	Certificate *x509.Certificate // the signing certificate; nil for a file without a signature that can be read
	Signed      bool              // there is a signature section
	SignatureOK bool              // the signature is by the certificate's key, and for this image

	Problems  []string // what is wrong
	Intruders []string // names in later ramdisks that do not belong there; see [Verify]
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Inspect reads a file of size bytes and reports all that is wrong with it; the time is for the validity of the signing
// certificate. The error is for a file that is none, or cannot be read, and for a context that has ended.
func Inspect(ctx context.Context, in io.ReaderAt, size int64, at time.Time) (*Report, error) {
	f, problems := eif.Inspect(in, size)
	if f == nil {
		return nil, errors.Join(problems...)
	}
	r := &Report{File: f}
	for _, p := range problems {
		r.problem("%v", p)
	}

	// The ramdisks are listed while the file is hashed.
	type listing struct {
		intruders []string
		err       error
	}
	listed := make(chan listing, 1)
	go func() {
		names, err := intruders(ctx, f)
		listed <- listing{names, err}
	}()
	pass, err := f.Measure(ctx)
	list := <-listed
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if pass == nil {
		return nil, err
	}
	r.Pass = pass
	if err != nil {
		r.problem("%v", err)
	}
	if list.err != nil {
		r.problem("%v", list.err)
	}
	r.Intruders = list.intruders
	if pass.CRC != f.CRC {
		r.problem("the checksum in the header is %08x, and the file has %08x: it was cut, or changed", f.CRC, pass.CRC)
	}
	r.contents()
	r.signature(at)
	return r, nil
}

// contents checks what is in the sections besides the signature.
func (r *Report) contents() {
	f := r.File
	if s, ok := f.Find(eif.Kernel); ok {
		if err := kernel.CheckFile(f.Content(s), s.Size, f.Arch()); err != nil {
			r.problem("%v", err)
		}
	}
	if _, ok := f.Find(eif.Cmdline); ok {
		if cmdline, err := f.Cmdline(); err != nil {
			r.problem("%v", err)
		} else if err := kernel.CheckCmdline(cmdline); err != nil {
			r.problem("%v", err)
		}
	}
	disks := f.All(eif.Ramdisk)
	for i, s := range disks {
		if i < len(disks)-1 && s.Size%4 != 0 && isPlain(f, s) {
			r.problem("ramdisk %d has %d bytes, which is no multiple of 4: the kernel does not find the next one", i, s.Size)
		}
	}
	if _, ok := f.Find(eif.Meta); ok {
		var err error
		if r.Metadata, err = f.Metadata(); err != nil {
			r.problem("%v", err)
		}
	}
}

func (r *Report) signature(at time.Time) {
	if _, r.Signed = r.File.Find(eif.Signature); !r.Signed {
		return
	}
	entries, err := r.File.Signatures()
	if err != nil {
		return // Measure has said so
	}
	certificate, err := eif.ParseCertificate(entries[0].Certificate)
	if err != nil {
		return // likewise
	}
	r.Certificate = certificate
	_, err = entries[0].Verify(r.Pass.PCR0, certificate.NotBefore)
	r.SignatureOK = err == nil
	if err == nil {
		_, err = entries[0].Verify(r.Pass.PCR0, at)
	}
	if err != nil {
		r.problem("%v", err)
	}
	if n := len(entries); n > 1 {
		r.problem("the signature section has %d entries, and the hypervisor checks the first alone", n)
	}
}

// Expectation is what a file should be.
type Expectation struct {
	PCRs        map[int]eif.PCR   // by their numbers: 0, 1, 2 and 8
	Certificate *x509.Certificate // whose key should have signed
}

// Verify lists everything that is wrong with a file and everything that is not as expected. A file with no findings
// is in order; that it is the one you want is shown only if something was expected.
func (r *Report) Verify(want Expectation) []string {
	findings := append(slices.Clone(r.Problems), r.Intruders...)
	for _, n := range slices.Sorted(maps.Keys(want.PCRs)) {
		got, ok := r.PCR(n)
		switch {
		case !ok && n == 8:
			findings = append(findings, fmt.Sprintf("PCR8 should be %v, and the file has no signature", want.PCRs[n]))
		case !ok:
			findings = append(findings, fmt.Sprintf("PCR%d is not determined by a file: 0, 1, 2 and 8 are", n))
		case got != want.PCRs[n]:
			findings = append(findings, fmt.Sprintf("PCR%d should be %v, and is %v", n, want.PCRs[n], got))
		}
	}
	if want.Certificate != nil {
		switch {
		case r.Certificate == nil:
			findings = append(findings, "the file should be signed, and has no signature")
		case !bytes.Equal(r.Certificate.Raw, want.Certificate.Raw):
			findings = append(findings, fmt.Sprintf("the file should be signed with the certificate of %q (PCR8 %v), and is signed with that of %q (PCR8 %v)",
				want.Certificate.Subject, eif.PCR8(want.Certificate), r.Certificate.Subject, eif.PCR8(r.Certificate)))
		}
	}
	return findings
}

// PCR is one of the registers that the file determines.
func (r *Report) PCR(n int) (eif.PCR, bool) {
	switch n {
	case 0:
		return r.Pass.PCR0, true
	case 1:
		return r.Pass.PCR1, true
	case 2:
		return r.Pass.PCR2, true
	case 8:
		if r.Pass.PCR8 != nil {
			return *r.Pass.PCR8, true
		}
	}
	return eif.PCR{}, false
}

// JSON is what nitro-cli's describe-eif prints, and after that what it does not say: the architecture, each section,
// which of the fields no register covers, and what is wrong.
func (r *Report) JSON() ([]byte, error) {
	type section struct {
		Type   string
		Offset int64 // of the section's header
		Size   int64 // of its content
		SHA384 string
	}
	d := struct {
		EifVersion         uint16
		Measurements       eif.Measurements
		IsSigned           bool
		SigningCertificate *Certificate `json:",omitempty"`
		CheckCRC           bool
		SignatureCheck     *bool           `json:",omitempty"`
		ImageName          *string         `json:",omitempty"`
		ImageVersion       *string         `json:",omitempty"`
		Metadata           json.RawMessage `json:",omitempty"`

		Architecture string
		Sections     []section
		Unmeasured   []string
		Problems     []string
		Warnings     []string
	}{
		EifVersion:   r.File.Version,
		Measurements: r.Pass.Measurements,
		IsSigned:     r.Signed,
		CheckCRC:     r.Pass.CRC == r.File.CRC,
		Architecture: r.File.Arch(),
		Unmeasured:   []string{},
		Problems:     append([]string{}, r.Problems...),
		Warnings:     append([]string{}, r.Intruders...),
	}
	if r.Signed {
		d.SignatureCheck = &r.SignatureOK
	}
	if r.Certificate != nil {
		d.SigningCertificate = describeCertificate(r.Certificate)
	}
	if r.Metadata != nil {
		d.ImageName, d.ImageVersion = &r.Metadata.ImageName, &r.Metadata.ImageVersion
		d.Unmeasured = []string{"ImageName", "ImageVersion", "Metadata"}
		var err error
		if d.Metadata, err = describeMetadata(r.Metadata); err != nil {
			return nil, err
		}
	}
	for i, s := range r.File.Sections {
		d.Sections = append(d.Sections, section{s.Type.String(), s.Offset, s.Size, fmt.Sprintf("%x", r.Pass.Sections[i].SHA384)})
	}
	return indent(d)
}

// describeMetadata writes metadata as nitro-cli does: the fields of BuildMetadata, DockerInfo, and then the user's own
// beside them.
func describeMetadata(m *eif.Metadata) (json.RawMessage, error) {
	fields, err := indent(struct {
		eif.BuildMetadata
		DockerInfo json.RawMessage
	}{m.BuildMetadata, m.DockerInfo})
	if err != nil {
		return nil, err
	}
	own := bytes.TrimSpace(m.CustomMetadata)
	if own = bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimPrefix(own, []byte("{")), []byte("}"))); len(own) == 0 || string(own) == "null" {
		return fields, nil
	}
	return append(append(bytes.TrimSuffix(bytes.TrimSpace(fields), []byte("}")), ','), append(own, '}')...), nil
}

// indent is JSON as serde_json and nitro-cli write it: two spaces, no escapes for HTML, and a newline at the end.
func indent(value any) ([]byte, error) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return []byte(b.String()), err
}

// Result names what a verification without findings has shown.
func (e Expectation) Result(signed bool) string {
	_, image := e.PCRs[0]
	_, signer := e.PCRs[8]
	switch {
	case image || signer || e.Certificate != nil:
		return "verified"
	case len(e.PCRs) > 0:
		return "consistent, a part is as expected"
	case signed:
		return "consistent, signer not checked"
	}
	return "consistent, not signed"
}
