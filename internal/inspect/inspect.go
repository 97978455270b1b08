// Package inspect looks into Enclave Image Files of any origin: what they hold, whether they are consistent,
// whether they are what was expected, and where two of them differ.
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
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Report is what reading an Enclave Image File shows about it.
type Report struct {
	File        *eif.File
	Pass        *eif.Pass
	Metadata    *eif.Metadata     // nil if missing or unreadable
	Certificate *x509.Certificate // the signing certificate; nil if there is no readable signature
	Signed      bool              // there is a signature section
	SignatureOK bool              // the signature is by the certificate's key, and for this image

	Usage  preflight.Usage // of the ramdisks, up to the first that cannot be unpacked
	Memory int64           // that the enclave needs to start, in bytes

	// Application is what neb's init is told of the application; nil if nothing, or nothing that it can read.
	Application *contract.Description

	Problems []Finding // what is wrong
	Warnings []Finding // what a hypervisor passes over; see [Report.Verify]
}

// Codes of findings about EIFs.
const (
	Structure   Code = "structure"    // header or sections break a rule of the format
	Layout      Code = "layout"       // the layout of the sections is not as the format prescribes
	PCIe        Code = "pcie"         // the image is of a PCIe enclave, whose PCR0 is not known
	Checksum    Code = "checksum"     // the file is truncated or changed
	Kernel      Code = "kernel"       // not a bootable image for the architecture
	Cmdline     Code = "cmdline"      // it cannot be read, or is invalid
	Ramdisk     Code = "ramdisk"      // the kernel cannot unpack it
	Metadata    Code = "metadata"     // it cannot be read
	Signature   Code = "signature"    // it or its certificate is invalid, or not valid at the time
	ForeignName Code = "foreign-name" // a later ramdisk has a name that belongs to the first one, or to none

	PCRMismatch         Code = "pcr-mismatch"         // a register differs from the expected value
	CertificateMismatch Code = "certificate-mismatch" // the file is not signed with the expected certificate
)

func (r *Report) problem(code Code, format string, args ...any) {
	r.Problems = append(r.Problems, find(code, format, args...))
}

// Inspect reads a file of size bytes and reports all that is wrong with it; the signing certificate must be
// valid at the given time. It fails if the file is not an EIF or cannot be read, and with the cause of ctx
// once that is done.
func Inspect(ctx context.Context, in io.ReaderAt, size int64, at time.Time) (*Report, error) {
	f, problems := eif.Inspect(in, size)
	if f == nil {
		return nil, errors.Join(problems...)
	}
	r := &Report{File: f}
	for _, p := range problems {
		r.problem(Structure, "%v", p)
	}

	for _, l := range f.Layout {
		r.Warnings = append(r.Warnings, find(Layout, "%v; neb eif repair mends it", l))
	}
	if f.PCIe() {
		r.Warnings = append(r.Warnings, find(PCIe, "the header's flags %#x (%s) are those of a PCIe "+
			"enclave: its PCR0 includes them by a rule that is not public, so neb gives none", f.Flags,
			f.FlagNames()))
	}

	// The ramdisks are listed while the file is hashed.
	listed := make(chan listing, 1)
	go func() { listed <- list(ctx, f) }()
	pass, err := f.Measure(ctx)
	disks := <-listed
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if pass == nil {
		return nil, err
	}
	r.Pass, r.Usage, r.Application = pass, disks.usage, disks.application
	r.Memory = r.Usage.LeastMemory(size)
	if err != nil {
		r.problem(Signature, "%v", err)
	}
	if disks.err != nil {
		r.problem(Ramdisk, "%v", disks.err)
	}
	for _, text := range disks.foreign {
		r.Warnings = append(r.Warnings, find(ForeignName, "%s", text))
	}
	if err := f.CheckCRC(pass); err != nil {
		r.problem(Checksum, "%v", err)
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
			r.problem(Kernel, "%v", err)
		}
	}
	if _, ok := f.Find(eif.Cmdline); ok {
		if cmdline, err := f.Cmdline(); err != nil {
			r.problem(Cmdline, "%v", err)
		} else if err := kernel.CheckCmdline(cmdline); err != nil {
			r.problem(Cmdline, "%v", err)
		}
	}
	if _, ok := f.Find(eif.Meta); ok {
		var err error
		if r.Metadata, err = f.Metadata(); err != nil {
			r.problem(Metadata, "%v", err)
		}
	}
}

func (r *Report) signature(at time.Time) {
	if _, r.Signed = r.File.Find(eif.Signature); !r.Signed {
		return
	}
	entries, err := r.File.Signatures()
	if err != nil {
		return // Measure has reported it
	}
	certificate, err := eif.ParseCertificate(entries[0].Certificate)
	if err != nil {
		return // likewise
	}
	r.Certificate = certificate
	if r.File.PCIe() {
		return // PCIe says why: the signature covers PCR0
	}
	_, err = entries[0].Verify(r.Pass.PCR0, certificate.NotBefore)
	r.SignatureOK = err == nil
	if err == nil {
		_, err = entries[0].Verify(r.Pass.PCR0, at)
	}
	if err != nil {
		r.problem(Signature, "%v", err)
	}
	if n := len(entries); n > 1 {
		r.problem(Signature, "the signature section has %d entries, the hypervisor checks only the first", n)
	}
}

// Expectation is what a file should be.
type Expectation struct {
	PCRs        map[int]eif.PCR   // by their numbers: 0, 1, 2 and 8
	Certificate *x509.Certificate // whose key should have signed
}

// Result says what a verification has shown.
type Result string

// The results of [Report.Verify].
const (
	Verified Result = "verified" // the file is the expected image, or by the expected signer
	// only PCR1 or PCR2 was expected: half of the enclave is known
	Partial         Result = "partial"
	SignerUnchecked Result = "signer-unchecked" // the file is consistent, and signed by anyone
	Unsigned        Result = "unsigned"         // the file is consistent, and not signed
	Rejected        Result = "rejected"         // there are findings
)

// Verify lists everything that is wrong with a file, and everything that differs from what was expected.
func (r *Report) Verify(want Expectation) (Result, []Finding) {
	findings := slices.Concat(r.Problems, r.Warnings)
	add := func(code Code, format string, args ...any) {
		findings = append(findings, find(code, format, args...))
	}
	for _, n := range slices.Sorted(maps.Keys(want.PCRs)) {
		got, ok := r.Pass.PCR(n)
		switch {
		case !ok && n == 8:
			add(PCRMismatch, "PCR8: expected %v, found no signature", want.PCRs[n])
		case !ok && n == 0:
			add(PCRMismatch, "PCR0: expected %v, the file does not show it", want.PCRs[n])
		case !ok:
			add(PCRMismatch, "PCR%d: a file determines only PCR0, PCR1, PCR2 and PCR8", n)
		case got != want.PCRs[n]:
			add(PCRMismatch, "PCR%d: expected %v, found %v", n, want.PCRs[n], got)
		}
	}
	if c := want.Certificate; c != nil {
		switch {
		case r.Certificate == nil:
			add(CertificateMismatch, "expected a signature, found none")
		case !bytes.Equal(r.Certificate.Raw, c.Raw):
			add(CertificateMismatch, "expected the certificate of %q (PCR8 %v), found that of %q (PCR8 %v)",
				c.Subject, eif.PCR8(c), r.Certificate.Subject, eif.PCR8(r.Certificate))
		}
	}
	if len(findings) > 0 {
		return Rejected, findings
	}
	_, image := want.PCRs[0]
	_, signer := want.PCRs[8]
	switch {
	case image || signer || want.Certificate != nil:
		return Verified, nil
	case len(want.PCRs) > 0:
		return Partial, nil
	case r.Signed:
		return SignerUnchecked, nil
	}
	return Unsigned, nil
}

// Description is what neb eif describe prints: what nitro-cli describe-eif prints, and then the architecture,
// each section, the fields that no register covers, and what is wrong.
type Description struct {
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
	Flags        string   `json:",omitempty"` // of a PCIe enclave
	Network      *Network `json:",omitempty"`
	Application  []string `json:",omitempty"` // records of contract.Path
	Sections     []SectionDescription
	Unmeasured   []string
	Problems     []Finding
	Warnings     []Finding
}

// Network is the network that the application's description asks for.
type Network struct {
	Egress, Ingress []string // rules
	Unlimited       []string // the directions without rules: "egress", "ingress"
}

// SectionDescription describes one section.
type SectionDescription struct {
	Type   string
	Offset int64 // of the section's header
	Size   int64 // bytes of its content
	SHA384 string
}

// Describe returns the description of the file.
func (r *Report) Describe() (*Description, error) {
	d := &Description{
		EifVersion:   r.File.Version,
		Measurements: r.Pass.Measurements,
		IsSigned:     r.Signed,
		CheckCRC:     r.Pass.CRC == r.File.CRC,
		Architecture: r.File.Arch(),
		Unmeasured:   []string{},
		Problems:     append([]Finding{}, r.Problems...),
		Warnings:     append([]Finding{}, r.Warnings...),
	}
	if r.File.PCIe() {
		d.Flags = r.File.FlagNames()
	} else if r.Signed {
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
	if a := r.Application; a != nil {
		text, err := contract.Encode(*a)
		if err != nil {
			return nil, err
		}
		records := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		d.Application = records[1:] // the first is the version
		if a.Network {
			d.Network = &Network{append([]string{}, a.Egress...), append([]string{}, a.Ingress...),
				[]string{}}
			if len(a.Egress) == 0 {
				d.Network.Unlimited = append(d.Network.Unlimited, "egress")
			}
			if len(a.Ingress) == 0 {
				d.Network.Unlimited = append(d.Network.Unlimited, "ingress")
			}
		}
	}
	for i, s := range r.File.Sections {
		sum := fmt.Sprintf("%x", r.Pass.Sections[i].SHA384)
		d.Sections = append(d.Sections, SectionDescription{s.Type.String(), s.Offset, s.Size, sum})
	}
	return d, nil
}

// describeMetadata writes metadata as nitro-cli does: the fields of BuildMetadata, DockerInfo, and then those
// of the user.
func describeMetadata(m *eif.Metadata) (json.RawMessage, error) {
	fields, err := indent(struct {
		eif.BuildMetadata
		DockerInfo json.RawMessage
	}{m.BuildMetadata, m.DockerInfo})
	if err != nil {
		return nil, err
	}
	own := bytes.TrimSpace(m.CustomMetadata)
	own = bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimPrefix(own, []byte("{")), []byte("}")))
	if len(own) == 0 || string(own) == "null" {
		return fields, nil
	}
	return append(append(bytes.TrimSuffix(bytes.TrimSpace(fields), []byte("}")), ','),
		append(own, '}')...), nil
}

// indent returns JSON as nitro-cli writes it: two spaces, no escapes for HTML, and a newline at the end.
func indent(value any) ([]byte, error) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return []byte(b.String()), err
}
