//go:build slow

// Package release tests a release as a user makes it: neb release gives the same bytes twice; neb verify
// --release accepts them, and rejects them when a byte is changed.
package release

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/source"
)

const root = "../.."

// neb runs neb in dir and returns its output on both streams.
func neb(t *testing.T, dir, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestRelease(t *testing.T) {
	require.Namespaces(t)
	work := t.TempDir()
	program := filepath.Join(work, "neb")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/neb")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// A copy of the source, as the commit of a release.
	checkout := filepath.Join(work, "source")
	source.Copy(t, root, checkout)
	lacks := `CHANGELOG.md: no section "## 0.0.1"`
	if out, err := neb(t, checkout, program, "release", "0.0.1"); err == nil ||
		!strings.Contains(out, lacks) {
		t.Errorf("a version that the changelog lacks: %v\n%s", err, out)
	}
	changes := []byte("# Changelog\n\n## 0.0.1\n\nPCR1: unchanged: docs alone.\n")
	write(t, filepath.Join(checkout, "CHANGELOG.md"), changes)

	git(t, checkout, "init", "-q")
	git(t, checkout, "add", "-A")
	git(t, checkout, "commit", "-q", "-m", "0.0.1")
	commit := git(t, checkout, "rev-parse", "HEAD")

	key := filepath.Join(work, "key.pem")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if der, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		t.Fatal(err)
	}
	write(t, key+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	releases := []string{filepath.Join(work, "first"), filepath.Join(work, "second")}
	for _, dir := range releases {
		out, err := neb(t, checkout, program, "release", "0.0.1", "--output", dir, "--signing-key", key)
		if err != nil {
			t.Fatalf("neb release: %v\n%s", err, out)
		}
	}
	entries, err := os.ReadDir(releases[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		one, two := read(t, filepath.Join(releases[0], e.Name())),
			read(t, filepath.Join(releases[1], e.Name()))
		if !bytes.Equal(one, two) {
			t.Errorf("%s: differs between two releases", e.Name())
		}
		report.Linef(t, "made twice: %x  %s, %d bytes", sha256.Sum256(one), e.Name(), len(one))
	}

	const archive = "enclaves-blobs-0.0.1.tar.xz"
	path := filepath.Join(releases[0], archive)
	out, err := neb(t, checkout, program, "verify", "--cached", "--release", path, "--release-key",
		key+".pub")
	if err != nil || strings.Count(out, "same") < 15 {
		t.Errorf("neb verify: %v\n%s", err, out)
	}
	report.Linef(t, "neb verify --release: %d files are the same", strings.Count(out, "same"))
	checkIndex(t, checkout, program, path, work)
	sums := exec.Command("sha256sum", "-c", "--strict", "SHA256SUMS")
	sums.Dir = releases[0]
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	listing, err := exec.Command("tar", "-tJf", path).Output()
	if err != nil || !strings.Contains(string(listing), "enclaves-blobs/x86_64/bzImage\n") ||
		!strings.Contains(string(listing), "enclaves-blobs/aarch64/Image\n") {
		t.Errorf("tar -tJ: %v\n%s", err, listing)
	}

	// From another commit nothing is compiled, and nothing is compared.
	git(t, checkout, "commit", "-q", "--allow-empty", "-m", "another")
	want := "built from commit " + commit + ", the source is at commit "
	out, err = neb(t, checkout, program, "verify", "--release", path)
	if err == nil || !strings.Contains(out, want) {
		t.Errorf("from another commit: %v\n%s", err, out)
	}

	tampered := read(t, path)
	tampered[len(tampered)/2] ^= 1
	write(t, path, tampered)
	want = fmt.Sprintf("%x  %s", sha256.Sum256(tampered), archive)
	out, err = neb(t, checkout, program, "verify", "--cached", "--release", path)
	if err == nil || !strings.Contains(out, want) {
		t.Errorf("one byte changed: expected %q, found %v\n%s", want, err, out)
	}
	report.Linef(t, "one byte changed: %s", strings.TrimSpace(out))
}

// checkIndex signs an index with two keys, on two hosts as it were, and verifies the release with it, from a
// remote and beside the archive.
func checkIndex(t *testing.T, checkout, program, path, work string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(work, "config"))
	remote := filepath.Join(work, "remote")
	verify := []string{"verify", "--cached", "--release", path}
	for i, args := range [][]string{{"--expires", "9999-12-31"}, {"--remote", remote}} {
		key := filepath.Join(work, fmt.Sprintf("index-%d.pem", i))
		for _, openssl := range [][]string{
			{"genpkey", "-algorithm", "ed25519", "-out", key}, {"pkey", "-in", key, "-pubout", "-out",
				key + ".pub"},
		} {
			if out, err := exec.CommandContext(t.Context(), "openssl",
				openssl...).CombinedOutput(); err != nil {
				t.Fatalf("openssl: %v\n%s", err, out)
			}
		}
		out, err := neb(t, checkout, program, "trust", "add", "--for", "releases", key, key+".pub")
		if err != nil {
			t.Fatalf("neb trust add: %v\n%s", err, out)
		}
		out, err = neb(t, checkout, program, append([]string{"release", "index", path, "--key", key},
			args...)...)
		if err != nil {
			t.Fatalf("neb release index: %v\n%s", err, out)
		}
		if i == 0 {
			if out, err := neb(t, checkout, program, verify...); err == nil ||
				!strings.Contains(out, "signed by 1 trusted key, 2 are required") {
				t.Errorf("one signature: %v\n%s", err, out)
			}
		}
	}
	if out, err := neb(t, checkout, program, append(verify, "--remote", remote)...); err != nil {
		t.Errorf("index in a remote: %v\n%s", err, out)
	}
	index := filepath.Join(filepath.Dir(path), "index.dsse.json")
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	if out, err := neb(t, checkout, program, verify...); err == nil ||
		!strings.Contains(out, "index is required") {
		t.Errorf("no index: %v\n%s", err, out)
	}
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(work, "empty"))
}

// git runs git in dir with a fixed user and returns its output.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	fixed := []string{"-C", dir, "-c", "user.name=neb", "-c", "user.email=neb@example.org"}
	cmd := exec.CommandContext(t.Context(), "git", append(fixed, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
