//go:build linux

package cli

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/release"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
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
		{"no section", []string{"release", "v1.0.0"}, 1, `no section "## 1.0.0"`, changelog("# Changelog\n")},
		{"nothing about PCR1", []string{"release", "1.0.0"}, 1, "does not say whether PCR1 changed",
			changelog("## 1.0.0\n\nDocs.\n")},
		{"key", []string{"release", "1.0.0", "--signing-key", "CHANGELOG.md"}, 1,
			"--signing-key: CHANGELOG.md: expected a key in PEM",
			changelog("## 1.0.0\n\nPCR1: unchanged: docs.\n")},
		{"output", []string{"release", "1.0.0", "-o", "."}, 1, ". exists: remove it",
			changelog("## 1.0.0\n\nPCR1: unchanged: docs.\n")},
		{"own kernel", []string{"release", "1.0.0", "--patch", "p"}, 2, "unknown flag: --patch", nil},
		{"index without a key", []string{"release", "index", "x.tar.xz"}, 2, "--key is required", nil},
		{"index that expires at no day", []string{"release", "index", "x.tar.xz", "--expires", "soon"}, 2,
			`invalid --expires "soon"`, nil},
		{"index of a file of another name", []string{"release", "index", "x.tgz", "--key", "CHANGELOG.md"}, 1,
			"--key: CHANGELOG.md: expected a key in PEM", changelog("")},
		{"verify with a key and no release", []string{"verify", "--release-key", "k.pub", "result"}, 2,
			"--release-key needs --release", nil},
		{"verify a release with a patch", []string{"verify", "--release", "x.tar.xz", "--patch", "p"}, 2,
			"--patch cannot be combined with --release", nil},
		{"verify two things", []string{"verify", "result", "--release", "x.tar.xz"}, 2,
			"--release cannot be combined with the argument result", nil},
		{"verify a file of another name", []string{"verify", "--release", "blobs.tgz"}, 1,
			"expected the archive of a release", nil},
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

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOfflineIndex looks for the index of releases in a remote that has none, and offline beside the archive
// only.
func TestOfflineIndex(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := openKeys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Add("publisher", trust.Releases, public, nil); err != nil {
		t.Fatal(err)
	}
	r, err := remote.Open(t.Context(), "./empty")
	if err != nil {
		t.Fatal(err)
	}
	for _, offline := range []bool{false, true} {
		var out bytes.Buffer
		b := &component.Builder{Offline: offline, Sharing: &component.Sharing{Remotes: []*remote.Remote{r}}}
		err := checkNewest(t.Context(), streams{out: &out, err: &out}, &release.Verified{Version: "1.0.0"}, b)
		if err == nil || !strings.Contains(err.Error(), release.IndexName) {
			t.Errorf("offline %v: %v, expected an error that names the index", offline, err)
		}
		if asked := strings.Contains(out.String(), "./empty"); asked == offline {
			t.Errorf("offline %v: neb said %q", offline, &out)
		}
	}
}
