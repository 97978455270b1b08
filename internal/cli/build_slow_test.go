//go:build linux && slow

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// What was built is verified, from the store; a byte changed, a file missing or one too many is found.
func TestBuildAndVerify(t *testing.T) {
	require.Sandbox(t)
	dir := filepath.Join(t.TempDir(), "result")
	neb := func(args ...string) (code int, stdout, stderr string) {
		var out, err bytes.Buffer
		code = Main(args, &out, &err)
		return code, out.String(), err.String()
	}
	code, stdout, stderr := neb("build", "init", "--arch", "x86_64", "--source", "../..", "-o", dir, "--json")
	var report buildReport
	if code != 0 || json.Unmarshal([]byte(stdout), &report) != nil || report.Output != dir ||
		len(report.Files) != 1 || report.Files[0].Path != "x86_64/init" {
		t.Fatalf("exit status %d, %q, %q", code, stdout, stderr)
	}
	verify := func(expectedCode int, expected ...string) {
		t.Helper()
		code, stdout, stderr := neb("verify", dir, "--cached", "--source", "../..")
		if code != expectedCode {
			t.Errorf("neb verify: exit status %d, expected %d: %s", code, expectedCode, stderr)
		}
		for _, e := range expected {
			if !strings.Contains(stdout, e) {
				t.Errorf("neb verify: expected %q in %q", e, stdout)
			}
		}
	}
	verify(0, "same        x86_64/init\n", "same        SHA256SUMS\n")
	// Built again, beside what the store has.
	if code, stdout, stderr := neb("verify", dir, "--source", "../.."); code != 0 ||
		!strings.Contains(stdout, "same        x86_64/init\n") ||
		!strings.Contains(stderr, "building init x86_64") {
		t.Errorf("neb verify: exit status %d, %q, %q", code, stdout, stderr)
	}

	path := filepath.Join(dir, "x86_64", "init")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := errors.Join(os.WriteFile(path, content, 0o755),
		os.WriteFile(filepath.Join(dir, "x86_64", "extra"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	verify(1, "different   x86_64/init  (expected SHA-256 "+report.Files[0].SHA256,
		"unexpected  x86_64/extra\n")
}
