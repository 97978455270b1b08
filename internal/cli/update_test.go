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
		{"update --lock " + broken, 1, []string{broken, "neb.lock:3", `unknown field "surprise"`}},
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
	for _, suite := range []string{"debian/dists/trixie", "debian/dists/trixie-updates", "debian-security/dists/trixie-security"} {
		if err := os.MkdirAll(filepath.Join(dir, suite), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, suite, "InRelease"), []byte("Origin: Debian\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "neb.lock")
	if err := writeLock(name, readLock(t, neb.LockFile)); err != nil {
		t.Fatal(err)
	}
	mirrors := fetch.Mirrors{Archives: map[string][]string{
		lock.Debian:   {"file://" + dir + "/debian"},
		lock.Security: {"file://" + dir + "/debian-security"},
	}}
	var out, errs bytes.Buffer
	err := update(t.Context(), streams{&out, &errs}, mirrors, name, []string{lock.PartKernel}, "")
	if err == nil || !strings.Contains(err.Error(), "no OpenPGP signature") || !strings.Contains(err.Error(), dir) {
		t.Errorf("expected a refusal that names the mirror, found %v", err)
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, neb.LockFile) {
		t.Errorf("the lock was changed (%v)", err)
	}
}

func readLock(t *testing.T, data []byte) *lock.Lock {
	t.Helper()
	l, err := lock.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWriteLock(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "neb.lock")
	good := readLock(t, neb.LockFile)
	if err := writeLock(name, good); err != nil {
		t.Fatal(err)
	}
	bad := *good
	bad.Packages = bad.Packages[1:]
	if err := writeLock(name, &bad); err == nil || !strings.Contains(err.Error(), "stays as it is") {
		t.Errorf("expected a lock that lacks a package to be refused, found %v", err)
	}
	if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, neb.LockFile) {
		t.Errorf("expected the lock as it was (%v)", err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("expected mode 0644, found %v (%v)", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("expected nothing beside the lock, found %v", entries)
	}
	if err := writeLock(filepath.Join(dir, "none", "neb.lock"), good); err == nil {
		t.Error("expected an error for a directory that is not there")
	}
}

func TestFindLock(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "neb.lock")
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	t.Setenv("NEB_SOURCE", "")
	if got, err := findLock(); err != nil || got != want {
		t.Errorf("expected %s, found %s (%v)", want, got, err)
	}
	t.Setenv("NEB_SOURCE", "/elsewhere")
	if got, err := findLock(); err != nil || got != "/elsewhere/neb.lock" {
		t.Errorf("expected that of NEB_SOURCE, found %s (%v)", got, err)
	}
}
