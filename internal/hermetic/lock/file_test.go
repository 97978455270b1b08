package lock_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "neb.lock")
	good, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.WriteFile(name, good); err != nil {
		t.Fatal(err)
	}
	bad := *good
	bad.Packages = bad.Packages[1:]
	if err := lock.WriteFile(name, &bad); err == nil ||
		!strings.Contains(err.Error(), "neb.lock was not changed") {
		t.Errorf("a lock that lacks a package: %v", err)
	}
	if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, neb.LockFile) {
		t.Errorf("the lock was changed (%v)", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("expected the lock alone, found %v", entries)
	}
	if err := lock.WriteFile(filepath.Join(dir, "none", "neb.lock"), good); err == nil {
		t.Error("expected an error for a directory that does not exist")
	}
}

func TestFind(t *testing.T) {
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
	if got, err := lock.Find(); err != nil || got != want {
		t.Errorf("%s (%v), expected %s", got, err, want)
	}
	t.Setenv("NEB_SOURCE", "/elsewhere")
	if got, err := lock.Find(); err != nil || got != "/elsewhere/neb.lock" {
		t.Errorf("%s (%v), expected the one in NEB_SOURCE", got, err)
	}
}
