package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release names its commit, so the commit must have all of the source.
func TestCheckCommitted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@example.com"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	check := func(expected string) {
		t.Helper()
		err := checkCommitted(t.Context(), dir)
		switch {
		case expected == "" && err != nil:
			t.Error(err)
		case expected != "" && (err == nil || !strings.Contains(err.Error(), expected)):
			t.Errorf("found %v, expected %q", err, expected)
		}
	}
	if commit, err := headOf(t.Context(), dir); err != nil || commit != "" {
		t.Errorf("no checkout: %q, %v", commit, err)
	}
	write("CHANGELOG.md", "one\n")
	run("init", "-q")
	run("add", ".")
	run("commit", "-qm", "one")
	if commit, err := headOf(t.Context(), dir); err != nil || len(commit) < 40 {
		t.Errorf("a checkout: commit %q, %v", commit, err)
	}
	check("")
	write("more.go", "package main\n")
	check("?? more.go")
	run("add", ".")
	run("commit", "-qm", "two")
	check("")
	write("CHANGELOG.md", "two\n")
	check("M CHANGELOG.md")
	write("CHANGELOG.md", "one\n")
	// git status does not show an ignored file, and go build compiles it.
	write(".git/info/exclude", "local_*.go\n")
	write("local_x.go", "package main\n")
	check("local_x.go")
	if err := os.Remove(filepath.Join(dir, "local_x.go")); err != nil {
		t.Fatal(err)
	}
	check("")
	// What git is told not to look at.
	run("update-index", "--assume-unchanged", "more.go")
	write("more.go", "package evil\n")
	check("h more.go")
	run("update-index", "--no-assume-unchanged", "more.go")
	check("M more.go")
	// As in a hook of another repository.
	other := t.TempDir()
	if out, err := exec.Command("git", "clone", "-q", dir, other).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	t.Setenv("GIT_WORK_TREE", other)
	check("M more.go")
}
