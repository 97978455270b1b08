package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestKMS has an enclave that asks for a data key under a policy on PCR0, and gets it; the same image with
// one byte changed is denied, and neb says which register.
func TestKMS(t *testing.T) { dataKey(t, "x86_64", "amd64", guestPath) }

func dataKey(t *testing.T, arch, goarch, guest string) {
	openssl := require.Command(t, "openssl")
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, content []byte) string {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private),
	})

	// The key's ARN is an argument of the enclave, and PCR0 is in the key's policy: the policy comes second.
	const owner = `{"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
		"NotAction": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*"}`
	policy := func(statement string) string {
		return `{"Version": "2012-10-17", "Statement": [` + owner + statement + `]}`
	}
	arn := strings.TrimSpace(neb(t, "kms", "create-key", "--policy", write("policy", []byte(policy("")))))
	image := guestImageFor(t, goarch, guest, v1.Config{Cmd: []string{"/guest", "datakey", arn}},
		entry{"key.der", 0o644, public}, entry{"byte", 0o644, []byte{1}})
	eif, m := packFor(t, arch, ociLayout(t, image))
	neb(t, "kms", "put-key-policy", "--key", arn, "--policy", write("policy", []byte(policy(fmt.Sprintf(`,
		{"Sid": "Enclave", "Effect": "Allow", "Principal": "*", "Action": "kms:GenerateDataKey",
			"Resource": "*", "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": %q}}}`,
		m.Measurements["PCR0"])))))

	neb(t, "attest", "ca", "init")
	r := boot(t, eif, "--kms")
	var answer struct {
		KeyID                                             string `json:"KeyId"`
		CiphertextForRecipient, Plaintext, CiphertextBlob []byte
	}
	if err := json.Unmarshal([]byte(r.find(t, "^answer: (.*?)\r?$")), &answer); err != nil {
		t.Fatal(err)
	}
	decrypt := exec.Command(openssl, "cms", "-decrypt", "-inform", "DER", "-inkey", write("key.pem", key),
		"-in",
		write("answer", answer.CiphertextForRecipient))
	plaintext, err := decrypt.Output()
	if err != nil || len(plaintext) != 32 || answer.Plaintext != nil || answer.KeyID != arn {
		t.Errorf("%d bytes of a data key: %v; answer %+v", len(plaintext), err, answer)
	}
	document, err := base64.StdEncoding.DecodeString(r.find(t, "^document: ([A-Za-z0-9+/=]+)\r?$"))
	if err != nil {
		t.Fatal(err)
	}
	root := write("root.pem", []byte(neb(t, "attest", "ca", "show", "--pem")))
	neb(t, "attest", "verify", write("document", document), "--eif", eif, "--root", root, "--nonce",
		fmt.Sprintf("%x", "nonce"), "--user-data", fmt.Sprintf("%x", "user data"), "--public-key",
		"@"+write("public", public), "--pcr16", extended("started"))

	changed := guestImageFor(t, goarch, guest, v1.Config{Cmd: []string{"/guest", "datakey", arn}},
		entry{"key.der", 0o644, public}, entry{"byte", 0o644, []byte{2}})
	eif, other := packFor(t, arch, ociLayout(t, changed))
	r = boot(t, eif, "--kms")
	if denied := r.find(t, "^answer: (.*?)\r?$"); !strings.Contains(denied, "AccessDeniedException") {
		t.Errorf("the changed image: %s", denied)
	}
	want := fmt.Sprintf(`statement "Enclave": kms:RecipientAttestation:PCR0: found %q, `+
		`StringEqualsIgnoreCase expects %q`, other.Measurements["PCR0"], m.Measurements["PCR0"])
	if !strings.Contains(r.stderr, want) {
		t.Errorf("neb said\n%s\nexpected\n%s", r.stderr, want)
	}
}

// extended is a register that was zero, extended once.
func extended(data string) string {
	sum := sha512.Sum384(append(make([]byte, sha512.Size384), data...))
	return hex.EncodeToString(sum[:])
}
