package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestWithoutHome stands in a directory with files that would mislead, and has no HOME: none of them may be read, and none made.
func TestWithoutHome(t *testing.T) {
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "LINUXKIT_CACHE", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "")
	}
	l := NewLayout(t)
	l.Name(l.Image("amd64", [][]byte{Layer(t, File("evil", "1"))}, Gzip), "docker.io/library/a:1")
	dir := l.Dir()
	write(t, dir, "config.json", `{"currentContext":"evil"}`)
	archive := l.Archive()
	t.Chdir(dir)
	yaml := write(t, t.TempDir(), "x.yml", "init: [a:1]")
	const none = "no cache: neither --cache, LINUXKIT_CACHE nor HOME says where"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"build", "--arch", "amd64", "--dir", t.TempDir(), yaml}, none},
		{[]string{"cache", "ls"}, none},
		{[]string{"cache", "import", archive}, none},
		{[]string{"cache", "export", "--platform", "linux/amd64", "--outfile", "-", "a:1"}, none},
		{[]string{"cache", "rm", "a:1"}, none},
		{[]string{"cache", "clean"}, none},
	} {
		if status, _, said := call(t, c.args...); status != 1 || !strings.Contains(said, c.want) {
			t.Errorf("linuxkit %s: status %d, %q, want %q", strings.Join(c.args, " "), status, said, c.want)
		}
	}
	// The current directory's context is nobody's, and its certificates neither.
	t.Setenv("DOCKER_CONTEXT", "evil")
	yaml = write(t, t.TempDir(), "y.yml", `init: ["docker-daemon:a:1"]`)
	want := func(want string) {
		t.Helper()
		if status, _, said := call(t, "build", "--arch", "amd64", "--dir", t.TempDir(), yaml); status != 1 || !strings.Contains(said, want) {
			t.Errorf("status %d, %q, want %q", status, said, want)
		}
	}
	want("neither DOCKER_CONFIG nor HOME says where contexts are")
	t.Setenv("DOCKER_CONTEXT", "")
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	t.Setenv("DOCKER_TLS", "1")
	want("says where the certificates are")
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 4 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".lock")); err == nil {
		t.Error("the current directory has become a cache")
	}
}
