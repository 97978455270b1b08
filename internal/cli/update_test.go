//go:build linux

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/resolve"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
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
		{"update toolchain --series 7.3", 2, []string{"--series", "needs kernel"}},
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
	err := update(t.Context(), streams{&out, &errs}, name, []string{lock.PartKernel},
		resolve.Options{Mirrors: mirrors})
	if err == nil || !strings.Contains(err.Error(), "no OpenPGP signature") ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("expected a refusal that names the mirror, found %v", err)
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, neb.LockFile) {
		t.Errorf("the lock was changed (%v)", err)
	}
}

func TestPartsOf(t *testing.T) {
	for args, want := range map[string][2]string{ // without and with --series
		"":                 {"kernel series toolchain emulator", "kernel series toolchain emulator"},
		"kernel":           {"kernel series", "series"},
		"toolchain kernel": {"toolchain kernel series", "toolchain series"},
		"emulator":         {"emulator", "emulator"},
	} {
		for i, series := range []bool{false, true} {
			if got := strings.Join(partsOf(strings.Fields(args), series), " "); got != want[i] {
				t.Errorf("%q, --series %v: expected %q, found %q", args, series, want[i], got)
			}
		}
	}
}

// TestUpdateMissing has a mirror that dropped the locked kernel for a newer one.
func TestUpdateMissing(t *testing.T) {
	archives, now := mirror.NewArchives(t), time.Now()
	key := mirror.Key(t, "archive", now)
	newer := []byte("Linux 6.12.2")
	stanza := mirror.Stanza("linux-source-6.12", "6.12.2-1", "all", newer)
	for suite, archive := range map[string]string{"trixie": lock.Debian, "trixie-updates": lock.Debian,
		"trixie-security": lock.Security} {
		archives.Publish(t, mirror.Suite{Archive: archive, Name: suite, Date: now.Add(-time.Hour),
			Signed: now, Key: key,
			Indexes: map[string]string{"binary-amd64/Packages": stanza}})
	}
	const path = "/debian/pool/main/linux-source-6.12_6.12.2-1_all.deb"
	archives.Put(path, newer)
	t.Setenv("NEB_MIRROR", archives.URL)
	t.Setenv("GOPROXY", "off")
	mirrors, err := fetch.OfMachine(t.Context(), "/", true)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]openpgp.EntityList{lock.Debian: {key}, lock.Security: {key}}
	try := func() (*component.Builder, string, error) {
		l, err := lock.Read(bytes.NewReader(neb.LockFile))
		if err != nil {
			t.Fatal(err)
		}
		l.Indexes = nil
		l.Kernel = mirror.Locked("linux-source-6.12", []byte("Linux 6.12.1"))
		b := &component.Builder{Lock: l, MirrorOnly: true}
		if b.Store, err = store.Open(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		defer b.Store.Close()
		build := func() error { return b.Fetch(t.Context(), []lock.File{b.Lock.Kernel}) }
		if err := build(); err == nil || !strings.Contains(err.Error(), "neb build --update-missing") {
			t.Errorf("without --update-missing: %v", err)
		}
		var errs bytes.Buffer
		err = updateMissing(t.Context(), streams{err: &errs}, b, resolve.Options{Mirrors: mirrors,
			Keys: keys}, build)
		return b, errs.String(), err
	}
	b, said, err := try()
	if err != nil || b.Lock.Kernel.SHA256 != mirror.Hash(newer) {
		t.Errorf("found %s, %v", b.Lock.Kernel.Version, err)
	}
	for _, want := range []string{"linux-source-6.12 (amd64): removed, was 1.0-1",
		"linux-source-6.12 (all): added, 6.12.2-1", "not in the committed lock"} {
		if !strings.Contains(said, want) {
			t.Errorf("expected %q in %s", want, said)
		}
	}
	archives.Put(path, nil)
	if _, _, err := try(); err == nil || !strings.Contains(err.Error(), "no other versions") {
		t.Errorf("a mirror that lacks the newer one, too: %v", err)
	}
	keys = nil
	if _, _, err := try(); err == nil || !strings.Contains(err.Error(), "invalid OpenPGP signature") {
		t.Errorf("indexes by another key: %v", err)
	}
}
