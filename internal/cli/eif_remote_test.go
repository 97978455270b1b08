//go:build linux

package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"

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
		{1, "wrong PCR0", []string{"eif", "pull", names[1], "-o", f.path("pulled.eif"), "--pcr0", pcrs["PCR0"]}},
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
