//go:build linux

package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/registries"
)

// TestEIFInRegistry pushes two EIFs and reads them with every command that takes oci:// names.
func TestEIFInRegistry(t *testing.T) {
	app := registries.Referrers(t) + "/team/app"
	f := newEIFFiles(t)
	path, pcrs := f.build(t, "one.eif", "--cmd", "/hello", "--signing-certificate", f.path("cert.pem"),
		"--private-key", f.path("key.pem"))
	second, other := f.build(t, "two.eif", "--cmd", "/hello", "--env", "GREETING=again")
	var names []string
	for _, file := range []string{path, second} {
		status, out, errs := command("eif", "push", file, app+":1") // the tag moves to the second
		if status != 0 || !strings.HasPrefix(out, "oci://"+app+"@sha256:") {
			t.Fatalf("push %s: status %d, %q, %s", file, status, out, errs)
		}
		names = append(names, strings.TrimSpace(out))
	}
	missing := "oci://" + app + ":missing"
	wrong := strings.Repeat("0", 96)
	for _, c := range []struct {
		status int
		want   string // on one of the streams
		args   []string
	}{
		{2, "expected a tag, found a digest", []string{"eif", "push", path, names[0]}},
		{0, pcrs["PCR0"], []string{"eif", "describe", names[0]}},
		{0, other["PCR0"], []string{"eif", "describe", "oci://" + app + ":1"}},
		{1, "not found", []string{"eif", "describe", missing}},
		{0, "verified", []string{"eif", "verify", names[0], "--pcr0", pcrs["PCR0"]}},
		{0, "verified", []string{"eif", "verify", names[0], "--signing-certificate", f.path("cert.pem")}},
		{1, "rejected", []string{"eif", "verify", names[0], "--pcr0", wrong}},
		{1, "rejected", []string{"eif", "verify", names[1], "--signing-certificate", f.path("cert.pem")}},
		{0, "", []string{"eif", "diff", path, names[0]}},
		{1, "ramdisk 1: env: size 0 and 15", []string{"eif", "diff", names[0], names[1]}},
		{0, "init", []string{"eif", "extract", names[0], "--list"}},
		{125, "wrong PCR0: expected " + wrong, []string{"run", names[0], "--pcr0", wrong}},
		{125, "wrong PCR8: expected " + pcrs["PCR8"], []string{"run", second, "--pcr8", pcrs["PCR8"]}},
		{2, "invalid --pcr0", []string{"run", path, "--pcr0", "x"}},
		{1, "wrong PCR0", []string{"eif", "pull", names[1], "-o", f.path("pulled.eif"), "--pcr0",
			pcrs["PCR0"]}},
		{0, names[0], []string{"eif", "pull", names[0], "-o", f.path("pulled.eif"), "--pcr0", pcrs["PCR0"]}},
		{2, "--output is required", []string{"eif", "pull", names[0]}},
	} {
		status, out, errs := command(c.args...)
		if status != c.status || !strings.Contains(out+errs, c.want) {
			t.Errorf("%v: status %d, expected %d and %q:\n%s%s", c.args, status, c.status, c.want, out, errs)
		}
		if strings.HasPrefix(c.want, "wrong PCR0") {
			if _, err := os.Stat(f.path("pulled.eif")); err == nil {
				t.Errorf("%v wrote the file", c.args)
			}
		}
	}
	if !bytes.Equal(readFile(t, f.path("pulled.eif")), readFile(t, path)) {
		t.Error("pulled other bytes than were pushed")
	}
}

// TestSignedEIF signs EIFs in a registry and in a directory, and requires signatures of trusted keys.
func TestSignedEIF(t *testing.T) {
	for name, app := range map[string]string{"registry": registries.Referrers(t) + "/team/app",
		"directory": t.TempDir() + "/apps"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CONFIG_HOME", t.TempDir())
			f, bob := newEIFFiles(t), newEIFFiles(t)
			path, _ := f.build(t, "one.eif", "--cmd", "/hello")
			second, _ := f.build(t, "two.eif", "--cmd", "/hello", "--env", "GREETING=again")
			pulled := f.path("pulled.eif")
			run := func(want string, status int, args ...string) string {
				t.Helper()
				got, out, errs := command(append([]string{"eif"}, args...)...)
				if got != status || !strings.Contains(out+errs, want) {
					t.Errorf("%v: status %d, expected %d and %q:\n%s%s", args, got, status, want, out, errs)
				}
				if _, err := os.Stat(pulled); (err == nil) != (status == 0 && args[0] == "pull") {
					t.Errorf("%v: status %d, and the file: %v", args, status, err)
				}
				os.Remove(pulled)
				return strings.TrimSpace(out)
			}
			count := func(digest string) int {
				t.Helper()
				_, reference := remote.ParseEIF(digest)
				r, err := remote.Open(t.Context(), app)
				if err != nil {
					t.Fatal(err)
				}
				e, err := r.EIF(t.Context(), reference)
				if err != nil {
					t.Fatal(err)
				}
				list, err := e.Statements(t.Context())
				if err != nil {
					t.Error(err)
				}
				for _, s := range list { // a statement of one EIF does not count for another
					if other, err := r.EIF(t.Context(), "2"); err == nil {
						if err := other.State(t.Context(), s); err != nil {
							t.Error(err)
						}
					}
				}
				return len(list)
			}
			trust := func(name string, files eifFiles) {
				t.Helper()
				key, err := sign.ReadPrivateKey(files.path("key.pem"))
				if err != nil {
					t.Fatal(err)
				}
				der, err := x509.MarshalPKIXPublicKey(key.Public())
				if err != nil {
					t.Fatal(err)
				}
				public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
				if err := os.WriteFile(files.path("key.pub"), public, 0o644); err != nil {
					t.Fatal(err)
				}
				if status, _, errs := command("trust", "add", name, files.path("key.pub")); status != 0 {
					t.Fatal(errs)
				}
			}
			digest := run("oci://"+app+"@sha256:", 0, "push", path, app+":1")
			run("0 trusted keys signed it, 1 are required", 1, "pull", app+":1", "-o", pulled, "--require",
				"1")
			run(digest, 0, "push", path, app+":1", "--key", f.path("key.pem"))
			run("not signed by a trusted key", 1, "pull", app+":1", "-o", pulled, "--require", "1")
			trust("alice", f)
			run(app+":1: signed by alice", 0, "pull", app+":1", "-o", pulled)
			run(digest, 0, "push", path, app+":1", "--key", f.path("key.pem"))
			if n := count(digest); n != 1 {
				t.Errorf("the same key signed twice: %d statements, expected 1", n)
			}
			trust("bob", bob)
			run("1 trusted keys signed it, 2 are required", 1, "pull", app+":1", "-o", pulled, "--require",
				"2")
			run(digest, 0, "push", path, app+":1", "--key", bob.path("key.pem"))
			run("signed by alice, bob", 0, "pull", digest, "-o", pulled, "--require", "2")
			run("signed by alice, bob", 0, "describe", digest)

			run("oci://", 0, "push", second, app+":2")
			if n := count(digest); n != 2 {
				t.Errorf("%d statements, expected 2", n)
			}
			run("statement is about", 1, "pull", app+":2", "-o", pulled, "--require", "1")
			run("signed by no trusted key", 0, "pull", app+":2", "-o", pulled)
			run("invalid --require", 2, "pull", app+":2", "-o", pulled, "--require", "-1")
			run("no such file", 1, "push", second, app+":2", "--key", f.path("nowhere.pem"))
		})
	}
}
