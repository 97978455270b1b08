package inspect

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// maxDocument is the largest attestation document in any of its encodings, in bytes. Real ones are much
// smaller.
const maxDocument = 256 << 10

// ReadDocument reads an attestation document from a file, or from standard input if path is "-". It may be in
// binary, hexadecimal or base64.
func ReadDocument(path string) (*nsm.Document, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("%s is larger than %d bytes: expected an attestation document", path,
			maxDocument)
	}
	d, err := nsm.Parse(decodeText(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// decodeText decodes hexadecimal or base64, and returns anything else as it is.
func decodeText(raw []byte) []byte {
	text := strings.Join(strings.Fields(string(raw)), "")
	if b, err := hex.DecodeString(text); err == nil && len(b) > 0 {
		return b
	}
	for _, e := range []*base64.Encoding{
		base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
	} {
		if b, err := e.DecodeString(text); err == nil && len(b) > 0 {
			return b
		}
	}
	return raw
}

// Requirements are what an attestation document must satisfy. The zero value of each Any and Allow field is
// the safe one.
type Requirements struct {
	nsm.Expectation
	Root *x509.Certificate
	At   time.Time // by the verifier's clock

	AnyPCR     bool // do not require an expected PCR0 or PCR8, which identify the enclave
	AnyNonce   bool // do not require an expected nonce, which shows that the document is fresh
	AllowDebug bool // accept an enclave in debug mode, whose registers are zero
}

// Codes of findings about attestation documents.
const (
	DocSignature    Code = "signature"    // the signature or its chain of certificates is invalid
	DocDebug        Code = "debug-mode"   // the enclave is in debug mode
	DocMismatch     Code = "mismatch"     // a field differs from what was expected
	DocZeroPCR      Code = "zero-pcr"     // a register was expected to be zero, as in debug mode
	DocUnidentified Code = "unidentified" // no expectation identifies the enclave
	DocNotFresh     Code = "not-fresh"    // no expectation shows that the document is fresh
)

// DocResult says what a verification of an attestation document has shown.
type DocResult string

// The results of [CheckDocument].
const (
	DocVerified     DocResult = "verified"   // the document is signed, and everything is as expected
	DocFromDebugged DocResult = "debug-mode" // the document is signed, by an enclave in debug mode
	DocRejected     DocResult = "rejected"   // there are findings
)

// CheckDocument lists everything about a document that does not satisfy the requirements.
func CheckDocument(d *nsm.Document, want Requirements) (DocResult, []Finding) {
	var findings []Finding
	add := func(code Code, format string, args ...any) {
		findings = append(findings, find(code, format, args...))
	}
	if err := d.Verify(want.Root, want.At); err != nil {
		add(DocSignature, "%v", err)
	}
	if d.Debug() && !want.AllowDebug {
		add(DocDebug, "PCR0 is zero: the enclave is in debug mode; --allow-debug accepts it")
	}
	for _, err := range d.Compare(want.Expectation) {
		add(DocMismatch, "%v", err)
	}
	identified := false
	for _, n := range slices.Sorted(maps.Keys(want.PCRs)) {
		zero := eif.PCR(want.PCRs[n]).IsZero()
		if zero && !want.AllowDebug {
			add(DocZeroPCR, "the expected PCR%d is zero, as in debug mode; --allow-debug accepts it", n)
		}
		// Zeros in PCR0 identify debug mode, which AllowDebug accepts. In PCR8 all images without a signature
		// have them.
		identified = identified || n == 0 && (!zero || want.AllowDebug) || n == 8 && !zero
	}
	if !identified && !want.AnyPCR {
		add(DocUnidentified,
			"no expected value identifies the enclave: give --eif, --pcr0 or --pcr8, or --any-pcr")
	}
	if want.Nonce == nil && !want.AnyNonce {
		add(DocNotFresh, "no expected nonce shows that the document is fresh: give --nonce, or --any-nonce")
	}
	switch {
	case len(findings) > 0:
		return DocRejected, findings
	case d.Debug():
		return DocFromDebugged, nil
	}
	return DocVerified, nil
}
