package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runNeb runs neb in this process and returns its status and both streams.
func runNeb(args ...string) (int, string) {
	var out bytes.Buffer
	code := Main(args, &out, &out)
	return code, out.String()
}

func TestReleaseMistakes(t *testing.T) {
	t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "cache"))
	t.Chdir(t.TempDir())
	writeFile(t, "go.mod", "module github.com/nitro-enclaves-bootstrap/neb\n")
	changelog := func(text string) func(*testing.T) {
		return func(t *testing.T) { writeFile(t, "CHANGELOG.md", text) }
	}
	for _, test := range []struct {
		name    string
		args    []string
		code    int
		want    string
		prepare func(*testing.T)
	}{
		{"no version", []string{"release"}, 2, "accepts 1 arg(s), received 0", nil},
		{"version", []string{"release", "latest"}, 2, `version "latest": expected three numbers`, nil},
		{"no checkout", []string{"release", "1.0.0"}, 1, "has no CHANGELOG.md", nil},
		{"no section", []string{"release", "v1.0.0"}, 1, `has no section "## 1.0.0"`, changelog("# Changelog\n")},
		{"nothing about PCR1", []string{"release", "1.0.0"}, 1, "does not say whether PCR1 changed", changelog("## 1.0.0\n\nDocs.\n")},
		{"key", []string{"release", "1.0.0", "--signing-key", "CHANGELOG.md"}, 1, "--signing-key: CHANGELOG.md: expected a key in PEM", changelog("## 1.0.0\n\nPCR1: unchanged: docs.\n")},
		{"output", []string{"release", "1.0.0", "-o", "."}, 1, ".: is there already", changelog("## 1.0.0\n\nPCR1: unchanged: docs.\n")},
		{"own kernel", []string{"release", "1.0.0", "--patch", "p"}, 2, "unknown flag: --patch", nil},
		{"verify with a key and no release", []string{"verify", "--release-key", "k.pub", "result"}, 2, "belongs to --release", nil},
		{"verify a release with a patch", []string{"verify", "--release", "x.tar.xz", "--patch", "p"}, 2, "--patch", nil},
		{"verify two things", []string{"verify", "result", "--release", "x.tar.xz"}, 2, "expected one of them", nil},
		{"verify a file of another name", []string{"verify", "--release", "blobs.tgz"}, 1, "expected a release's archive", nil},
		{"verify nothing", []string{"verify", "--release", "enclaves-blobs-1.0.0.tar.xz"}, 1, "missing", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != nil {
				test.prepare(t)
			}
			code, out := runNeb(test.args...)
			if code != test.code || !strings.Contains(out, test.want) {
				t.Errorf("expected status %d and %q, found %d:\n%s", test.code, test.want, code, out)
			}
		})
	}
}

// A release names the commit it is made of, so all of it must be in one.
func TestReleaseOfChangedSource(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "CHANGELOG.md"), "## 1.0.0\n\nPCR1: changed: Linux.\n")
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "one")
	if commit, err := commitOf(t.Context(), dir, true); err != nil || len(commit) < 40 {
		t.Errorf("a clean checkout: commit %q, %v", commit, err)
	}
	writeFile(t, filepath.Join(dir, "more.go"), "package main\n")
	if _, err := commitOf(t.Context(), dir, true); err == nil || !strings.Contains(err.Error(), "more.go") || !strings.Contains(err.Error(), "in no commit") {
		t.Errorf("a file that git does not know: %v", err)
	}
	git("add", ".")
	git("commit", "-qm", "two")
	writeFile(t, filepath.Join(dir, "CHANGELOG.md"), "## 1.0.0\n\nPCR1: changed: Linux, of course.\n")
	if _, err := commitOf(t.Context(), dir, true); err == nil || !strings.Contains(err.Error(), "CHANGELOG.md") || !strings.Contains(err.Error(), "in no commit") {
		t.Errorf("a changed checkout: %v", err)
	}
	if commit, err := commitOf(t.Context(), dir, false); err != nil || len(commit) < 40 {
		t.Errorf("a changed checkout, which need not be clean: %q, %v", commit, err)
	}
	// A file that git was told to ignore is no change, and may have been compiled in.
	writeFile(t, filepath.Join(dir, ".git", "info", "exclude"), "local_*.go\n")
	writeFile(t, filepath.Join(dir, "local_x.go"), "package main\n")
	if err := checkTracked(t.Context(), dir, []string{"more.go"}); err != nil {
		t.Error(err)
	}
	if err := checkTracked(t.Context(), dir, []string{"more.go", "local_x.go"}); err == nil || !strings.Contains(err.Error(), "local_x.go: is compiled in, and git ignores it") {
		t.Errorf("a file that git ignores: %v", err)
	}
	if commit, err := commitOf(t.Context(), t.TempDir(), true); err != nil || commit != "" {
		t.Errorf("no checkout: %q, %v", commit, err)
	}
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	encode := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	// As openssl ecparam writes it.
	before := string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}}))
	path := filepath.Join(dir, "key.pem")
	private := map[string]string{"SEC 1": before + encode("EC PRIVATE KEY", sec1, err)}
	der, err := x509.MarshalPKCS8PrivateKey(ed)
	private["PKCS #8"] = encode("PRIVATE KEY", der, err)
	for name, text := range private {
		writeFile(t, path, text)
		if _, err := readSigner(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	der, err = x509.MarshalPKIXPublicKey(ed.Public())
	writeFile(t, path, encode("PUBLIC KEY", der, err))
	if _, err := readPublicKey(path); err != nil {
		t.Error(err)
	}
	if _, err := readSigner(path); err == nil || !strings.Contains(err.Error(), "expected a private key") {
		t.Errorf("a public key to sign with: %v", err)
	}
	writeFile(t, path, private["PKCS #8"])
	if _, err := readPublicKey(path); err == nil || !strings.Contains(err.Error(), "expected a public key") {
		t.Errorf("a private key to verify with: %v", err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
