package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestCheck builds what does not start, first refused and then allowed, and checks the file.
func TestCheck(t *testing.T) {
	f := newEIFFiles(t)
	output := f.path("x.eif")
	args := []string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64", "--blobs",
		f.path("blobs"),
		"--nsm=", "--output", output, "--cmd", "/none", "--user", "nobody"}
	status, out, errs := command(args...)
	for _, want := range []string{
		`error: the command "/none": the tree has no such file; `, "[command-missing]", "[user-unknown]",
		"accept with --allow command-missing --allow user-unknown",
	} {
		if status != 1 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("status %d, printed %q and %q, want %q", status, out, errs, want)
		}
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("the refused build left a file")
	}
	if status, _, errs := command(append(args, "--allow", "command-missing")...); status != 1 ||
		!strings.Contains(errs, "--allow user-unknown") {
		t.Errorf("status %d: %s", status, errs)
	}
	if status, _, errs := command(append(args, "--allow", "none")...); status != 2 ||
		!strings.Contains(errs, `invalid --allow "none"`) {
		t.Errorf("status %d: %s", status, errs)
	}
	if status, _, errs := command(append(args, "--allow", "command-missing", "--allow",
		"user-unknown")...); status != 0 ||
		!strings.Contains(errs, "MiB of memory") {
		t.Fatalf("status %d: %s", status, errs)
	}

	status, out, errs = command("eif", "check", output, "--json", "--memory", "8")
	var report eifCheckReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 1 {
		t.Fatalf("status %d: %s%s (%v)", status, out, errs, err)
	}
	var codes []string
	for _, finding := range report.Findings {
		codes = append(codes, string(finding.Code))
	}
	if got := strings.Join(codes, " "); got != "memory user-unknown command-missing" || report.Starts {
		t.Errorf("found %s, starts: %v", got, report.Starts)
	}
	good, _ := f.build(t, "good.eif", "--cmd", "/hello")
	status, out, errs = command("eif", "check", good)
	if status != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "needs at least") ||
		errs != "" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// TestMemoryOfBuildAndCheck compares the memory that neb eif build and neb eif check print. The kernel is
// large enough that it would show if one of them counted it as a ramdisk.
func TestMemoryOfBuildAndCheck(t *testing.T) {
	f := newEIFFiles(t)
	kernel, err := os.ReadFile(f.path("blobs/bzImage"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path("large"), append(kernel, make([]byte, 8<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	output := f.path("large.eif")
	status, _, errs := command("eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64", "--blobs",
		f.path("blobs"), "--kernel", f.path("large"), "--nsm=", "--output", output, "--cmd", "/hello")
	_, want, found := strings.Cut(errs, "needs at least")
	if status != 0 || !found {
		t.Fatalf("status %d: %s", status, errs)
	}
	if status, out, errs := command("eif", "check", output); status != 0 || !strings.Contains(out, want) {
		t.Errorf("status %d: %q and %q, want%s", status, out, errs, want)
	}
}
