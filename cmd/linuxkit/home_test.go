package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestWithoutHome runs without HOME in a directory with files that would mislead: linuxkit must not read
// them, nor create others.
func TestWithoutHome(t *testing.T) {
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT",
		"DOCKER_CERT_PATH", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	write(t, dir, "config.json", `{"currentContext":"evil"}`)
	t.Chdir(dir)
	yaml := write(t, t.TempDir(), "y.yml", `init: ["docker-daemon:a:1"]`)
	want := func(want string) {
		t.Helper()
		if status, _, said := call(t, "build", "--arch", "amd64", "--dir", t.TempDir(), yaml); status != 1 ||
			!strings.Contains(said, want) {
			t.Errorf("status %d, %q, want %q", status, said, want)
		}
	}
	t.Setenv("DOCKER_CONTEXT", "evil")
	want("DOCKER_CONFIG or HOME is required")
	t.Setenv("DOCKER_CONTEXT", "")
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	t.Setenv("DOCKER_TLS", "1")
	want("DOCKER_CERT_PATH")
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("found %v, %v, expected config.json alone", left, err)
	}
}
