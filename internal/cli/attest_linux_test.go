package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	emulated "github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// attested is an attestation document of an enclave under a development root, as neb run's enclaves get them.
func attested(t *testing.T, root *devca.Authority, pcr0 eif.PCR, nonce []byte) []byte {
	t.Helper()
	module := emulated.New(emulated.Config{
		ID: "i-1234567890abcdef0-enc1", PCRs: map[int]emulated.Digest{0: emulated.Digest(pcr0)},
		Chain: root.Identity("i-1234567890abcdef0", "i-1234567890abcdef0-enc1").Chain,
	})
	client := nsm.Module{Exchange: func(request []byte) ([]byte, error) {
		return module.Answer(request), nil
	}}
	document, err := client.Attest(nil, nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func TestAttestVerify(t *testing.T) {
	f := newEIFFiles(t)
	image, pcrs := f.build(t, "a.eif", "--cmd", "/hello")
	pcr0, err := eif.ParsePCR(pcrs["PCR0"])
	if err != nil {
		t.Fatal(err)
	}
	root, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := root.Identity("i-1", "i-1-enc1").Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	document := attested(t, root, pcr0, []byte{1, 2})
	for name, content := range map[string][]byte{
		"bin": document, "hex": []byte(hex.EncodeToString(document) + "\n"),
		"b64":   []byte(base64.StdEncoding.EncodeToString(document)),
		"debug": attested(t, root, eif.PCR{}, nil), "rubbish": []byte("hello"), "huge": make([]byte, 300<<10),
		"root.pem": root.PEM(), "leaf.der": chain[4],
	} {
		if err := os.WriteFile(f.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	under := " --root " + f.path("root.pem")
	other, zeros := strings.Repeat("ab", 48), strings.Repeat("0", 96)
	for _, test := range []struct {
		args   string
		status int
		out    string
		err    string
	}{
		{"bin --pcr0 " + pcrs["PCR0"] + " --nonce 0102" + under, 0,
			": verified; \"i-1234567890abcdef0-enc1\"", ""},
		{"hex --pcr0 " + pcrs["PCR0"] + " --nonce 0102" + under, 0, ": verified", ""},
		{"b64 --pcr0 " + pcrs["PCR0"] + " --nonce 0102" + under, 0, ": verified", ""},
		{"bin --pcr0 " + pcrs["PCR0"] + " --nonce 0102", 1, "does not start with the trusted root", ""},
		{"bin --pcr0 " + other + " --nonce 0102" + under, 1, "PCR0: expected abab", ""},
		{"bin --pcr0 " + pcrs["PCR0"] + " --nonce 03" + under, 1, "nonce: expected", ""},
		{"bin --pcr0 " + pcrs["PCR0"] + under, 1, "no expected nonce", ""},
		{"bin --nonce 0102" + under, 1, "no expected value identifies the enclave", ""},
		{"bin --pcr1 " + pcrs["PCR1"] + " --nonce 0102" + under, 1,
			"no expected value identifies the enclave", ""},
		{"bin --any-pcr --any-nonce" + under, 0, ": verified", ""},
		{"bin --any-pcr --any-nonce --user-data 00" + under, 1, "found none", ""},
		{"bin --any-pcr --any-nonce --json" + under, 0, `"Result": "verified"`, ""},
		{"bin --any-nonce --json" + under, 1, `"Code": "unidentified"`, ""},
		{"bin --any-nonce --json" + under, 1, `"AWS": false`, ""},
		{"bin --any-pcr --any-nonce" + under, 0, "; root CN=neb.nitro-enclaves,OU=neb development root", ""},
		{"bin --eif " + image + " --nonce 0102" + under, 1, "PCR1: expected", ""}, // it has PCR0 alone
		{"bin --eif " + image + " --pcr0 " + other, 2, "", "--pcr0 contradicts --eif"},
		{"debug --any-pcr --any-nonce" + under, 1, "debug mode", ""},
		{"debug --any-pcr --any-nonce --allow-debug" + under, 0, ": debug-mode", ""},
		{"debug --pcr0 " + zeros + " --any-nonce --allow-debug" + under, 0, ": debug-mode", ""},
		{"debug --pcr0 " + zeros + " --any-pcr --any-nonce" + under, 1, "the expected PCR0 is zero", ""},
		{"debug --pcr0 " + zeros + " --any-pcr --any-nonce --allow-debug" + under, 0, ": debug-mode", ""},
		{"bin --pcr0 " + zeros + " --any-nonce --allow-debug" + under, 1, "PCR0: expected 000000", ""},
		{"bin --pcr8 " + zeros + " --any-nonce --allow-debug" + under, 1, "no expected value identifies", ""},
		{"bin --pcr0 " + pcrs["PCR0"] + " --pcr3 " + zeros + " --any-nonce" + under, 1,
			"the expected PCR3 is zero", ""},
		{"rubbish --any-pcr --any-nonce", 1, "", "COSE_Sign1"},
		{"huge", 1, "", "larger than 262144 bytes"},
		{"nothing", 1, "", "no such file"},
		{"bin --nonce xyz", 2, "", "hexadecimal"},
		{"bin --root " + f.path("rubbish"), 1, "", "rubbish: expected a certificate in PEM or DER"},
		{"bin --root " + f.path("leaf.der"), 1, "", "leaf.der: expected the certificate of an authority"},
	} {
		args := strings.Fields("attest verify " + test.args)
		args[2] = f.path(args[2])
		status, out, errs := command(args...)
		if status != test.status || !strings.Contains(out, test.out) || !strings.Contains(errs, test.err) {
			t.Errorf("neb attest verify %s: status %d, want %d;\nprinted %s\nwant %q;\nsaid %s\nwant %q",
				test.args, status, test.status, out, test.out, errs, test.err)
		}
	}
}

// TestAttestVerifySigned gives the command a document that a real enclave's hypervisor signed;
// TestPublishedDocument of package nsm says where it is from.
func TestAttestVerifySigned(t *testing.T) {
	document, err := base64.StdEncoding.DecodeString(string(readFile(t, "../../nsm/testdata/published.b64")))
	if err != nil {
		t.Fatal(err)
	}
	d, err := nsm.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	f := newEIFFiles(t)
	tampered := bytes.Clone(document)
	tampered[len(tampered)-1] ^= 1
	other, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"signed": document, "tampered": tampered, "other.pem": other.PEM(),
		"root.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: nsm.AWSRoot().Raw}),
	} {
		if err := os.WriteFile(f.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := " --at " + d.Time.UTC().Format(time.RFC3339)
	const waived = " --any-pcr --any-nonce"
	for _, test := range []struct {
		args   string
		status int
		out    string
	}{
		{"signed --pcr0 " + hex.EncodeToString(d.PCRs[0]) + " --nonce " + hex.EncodeToString(d.Nonce) + at, 0,
			": verified"},
		{"signed" + waived + at + " --root " + f.path("root.pem"), 0, ": verified"},
		{"signed" + waived + at + " --root " + f.path("other.pem"), 1,
			"does not start with the trusted root"},
		{"signed" + waived, 1, "is valid from"},
		{"signed" + waived + at + " --json", 0, `"AWS": true`},
		{"signed --any-nonce" + at + " --pcr0 " + strings.Repeat("ab", 48), 1, "PCR0: expected"},
		{"signed --any-pcr" + at + " --nonce 0102", 1, "nonce: expected"},
		{"signed" + waived + at + " --public-key " + hex.EncodeToString(d.PublicKey), 0, ": verified"},
		{"signed" + waived + at + " --public-key 00", 1, "public key: expected"},
		{"tampered" + waived + at, 1, "signature is not by the key"},
	} {
		args := strings.Fields("attest verify " + test.args)
		args[2] = f.path(args[2])
		status, out, errs := command(args...)
		if status != test.status || !strings.Contains(out, test.out) {
			t.Errorf("neb attest verify %s: status %d, want %d;\nprinted %s\nwant %q;\nsaid %s", test.args,
				status, test.status, out, test.out, errs)
		}
	}
}
