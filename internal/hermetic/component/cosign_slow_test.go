//go:build slow

package component

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/registries"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// cosign is what checks neb's statements: another program, of another author.
const cosign = "github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5"

// TestCosign has cosign verify the statements that neb pushes, with each kind of key, from registries with
// and without referrers API.
func TestCosign(t *testing.T) {
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", cosign)
	install.Dir = dir
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		require.Lacks(t, "cosign from the Go proxy: "+string(out))
	}
	// With no network cosign cannot get the roots of Sigstore's own log, which no statement of neb is in.
	roots := filepath.Join(dir, "roots.json")
	text := `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`
	if err := os.WriteFile(roots, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"sha256": signingKey(t)}
	for digest, curve := range map[string]elliptic.Curve{"sha256 ": elliptic.P256(),
		"sha384": elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[digest] = key
	}
	for _, host := range []string{registries.Referrers(t), registries.Debian(t)} {
		for digest, key := range keys {
			der, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			public := filepath.Join(dir, "public.pem")
			if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
				0o644); err != nil {
				t.Fatal(err)
			}
			at := host + "/team/neb"
			name := at + ":" + newSite(t, nil).job(someInput).key()
			verify := func() ([]byte, error) {
				return exec.CommandContext(t.Context(), filepath.Join(dir, "cosign"), "verify-attestation",
					"--key", public, "--signature-digest-algorithm", strings.TrimSpace(digest),
					"--type", "slsaprovenance1", "--insecure-ignore-tlog", "--trusted-root", roots, name,
				).CombinedOutput()
			}
			if out, err := verify(); err == nil {
				t.Errorf("%s: before the push: no error\n%s", host, out)
			}
			share(t, at, "the program", key)
			if out, err := verify(); err != nil || !strings.Contains(string(out), `"payloadType"`) {
				t.Errorf("%s: %T: %v\n%s", host, key, err, out)
			}
		}
	}
}
