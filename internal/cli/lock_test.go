//go:build linux

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

func TestLockAudit(t *testing.T) {
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range l.All() {
		all = append(all, fmt.Sprintf(`{"name":%q,"version":%q,"architecture":%q,"status":"GOOD"}`, f.Name,
			f.Version, f.Arch))
	}
	path := filepath.Join(t.TempDir(), "results.json")
	audit := func(results []string, flags ...string) (int, string, string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("["+strings.Join(results, ",")+"]"), 0o644); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := Main(append([]string{"lock", "audit", path}, flags...), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, out, errs := audit(all); code != 0 || strings.Count(out, "\n") != 1 ||
		!strings.Contains(out, "(100.0 %)") {
		t.Errorf("all reproduced: status %d, %q, %q", code, out, errs)
	}
	code, out, errs := audit(all[1:])
	if code != 1 || !strings.Contains(out, "unknown  "+l.Kernel.Name) || strings.Count(out, "\n") != 2 {
		t.Errorf("without the first: status %d, %q, %q", code, out, errs)
	}
	bad := strings.Replace(all[0], "GOOD", "BAD", 1)
	code, out, errs = audit(append(all[1:], bad), "--json")
	var report lockAudit
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if code != 1 || report.List[0].State != lock.Differs || report.States[lock.Differs] != 1 ||
		report.States[lock.Reproduced] != report.Packages-1 ||
		!strings.Contains(errs, "differ when rebuilt: 1, unknown: ") {
		t.Errorf("one is bad: status %d, %v of %d, %q", code, report.States, report.Packages, errs)
	}
	if code, _, errs := audit([]string{"1"}); code != 1 || !strings.Contains(errs, path) {
		t.Errorf("no results: status %d, %q", code, errs)
	}
}
