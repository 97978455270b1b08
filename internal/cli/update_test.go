//go:build linux

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

func TestUpdateMisused(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.lock")
	if err := os.WriteFile(broken, []byte("{\n\"schema\": 1,\n\"surprise\": 2\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NEB_SOURCE", "")
	t.Chdir(dir)
	for _, tt := range []struct {
		args  string
		code  int
		words []string
	}{
		{"update firmware", 2, []string{"expected kernel, toolchain, emulator", `"firmware"`}},
		{"update kernel --go 1.26.9", 2, []string{"--go", "toolchain"}},
		{"update kernel", 1, []string{"no neb.lock in " + dir, "--lock"}},
		{"update --lock " + broken, 1, []string{broken, `unknown field "surprise"`}},
		{"update kernel --lock " + filepath.Join(dir, "none.lock"), 1, []string{"none.lock", "no such file"}},
	} {
		var out, errs bytes.Buffer
		code := Main(strings.Fields(tt.args), &out, &errs)
		if code != tt.code {
			t.Errorf("%s: expected status %d, found %d", tt.args, tt.code, code)
		}
		for _, w := range tt.words {
			if !strings.Contains(errs.String(), w) {
				t.Errorf("%s: expected the error to say %s, found %s", tt.args, w, &errs)
			}
		}
	}
}

// TestUpdateRefused has a mirror whose index is signed by nobody: the lock stays as it is.
func TestUpdateRefused(t *testing.T) {
	dir := t.TempDir()
	for _, suite := range []string{"debian/dists/trixie", "debian/dists/trixie-updates",
		"debian-security/dists/trixie-security"} {
		if err := os.MkdirAll(filepath.Join(dir, suite), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, suite, "InRelease"), []byte("Origin: Debian\n"),
			0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "neb.lock")
	if err := os.WriteFile(name, neb.LockFile, 0o644); err != nil {
		t.Fatal(err)
	}
	mirrors := fetch.Mirrors{Archives: map[string][]string{
		lock.Debian:   {"file://" + dir + "/debian"},
		lock.Security: {"file://" + dir + "/debian-security"},
	}}
	var out, errs bytes.Buffer
	err := update(t.Context(), streams{&out, &errs}, mirrors, name, []string{lock.PartKernel}, "")
	if err == nil || !strings.Contains(err.Error(), "no OpenPGP signature") ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("expected a refusal that names the mirror, found %v", err)
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, neb.LockFile) {
		t.Errorf("the lock was changed (%v)", err)
	}
}
