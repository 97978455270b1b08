// Package require states what a test needs from the machine. Where something is missing, it skips the test
// and names what is missing; with NEB_REQUIRE set, as in .ci/run, it fails the test instead.
package require

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Lacks ends a test that found a missing requirement itself: it skips the test, or fails it if NEB_REQUIRE is
// not empty.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("NEB_REQUIRE") != "" {
		t.Fatalf("this machine lacks %s, and NEB_REQUIRE is set", what)
	}
	t.Skipf("this machine lacks %s", what)
}

// Root requires that the test runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "root")
	}
}

// Command requires a program in PATH and returns its path.
func Command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacks(t, "the command "+name)
	}
	return path
}

// StaticCommand requires a statically linked program in PATH and returns its path.
func StaticCommand(t testing.TB, name string) string {
	t.Helper()
	path := Command(t, name)
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			Lacks(t, "a static "+name+" (Debian: "+name+"-static)")
		}
	}
	return path
}

// Docker requires a running Docker engine.
func Docker(t testing.TB) {
	t.Helper()
	Command(t, "docker")
	out, err := exec.Command("docker", "info", "--format", "{{.ServerVersion}}").CombinedOutput()
	if err != nil {
		Lacks(t, "a running Docker engine ("+string(out)+")")
	}
}

// BuildKit requires a Docker client that can build with BuildKit and returns its path: a client with the
// buildx plugin, or a release before 23, which has BuildKit built in. It tries every docker in PATH.
func BuildKit(t testing.TB) string {
	t.Helper()
	Docker(t)
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		client := filepath.Join(dir, "docker")
		if exec.Command(client, "buildx", "version").Run() == nil {
			return client
		}
		version, err := exec.Command(client, "version", "--format", "{{.Client.Version}}").Output()
		var major int
		if err == nil {
			_, err = fmt.Sscanf(string(version), "%d.", &major)
		}
		if err == nil && major < 23 {
			return client
		}
	}
	Lacks(t, "a Docker client with BuildKit (Debian: docker-buildx)")
	return ""
}

// Fetch requires that a download succeeded: err is its error. It needs the network, or a store that has the
// files.
func Fetch(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		Lacks(t, "the locked packages ("+err.Error()+")")
	}
}
