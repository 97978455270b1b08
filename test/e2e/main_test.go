// Package e2e boots what the rest of neb makes: build, pack, run, as a user types it, and looks at what the
// enclave says.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/confine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// nebPath is the program under test, guestPath the one in x86_64 enclaves, armPath the same for aarch64,
// compiled once for all tests.
var nebPath, guestPath, armPath string

// jailed makes the test binary execute a command where neither mounts nor namespaces are allowed.
const jailed = "jailed"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == jailed {
		err := confine.NoNamespaces()
		if err == nil {
			err = syscall.Exec(os.Args[2], os.Args[2:], os.Environ())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "neb-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		nebPath, guestPath, armPath = filepath.Join(dir, "neb"), filepath.Join(dir, "guest"),
			filepath.Join(dir, "guest-aarch64")
		for _, c := range []struct{ path, pkg, goarch string }{
			{nebPath, "../../cmd/neb", runtime.GOARCH},
			{guestPath, "./guest", "amd64"},
			{armPath, "./guest", "arm64"},
		} {
			build := exec.Command("go", "build", "-trimpath", "-o", c.path, c.pkg)
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+c.goarch)
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", c.pkg, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// shortDir is a directory for sockets, whose paths t.TempDir makes too long.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// result is how one run of neb ended.
type result struct {
	code           int
	stdout, stderr string
}

// tryNeb runs neb and returns how it ended, whatever that is. A neb that does not end within limit is killed
// and fails the test.
func tryNeb(t testing.TB, limit time.Duration, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, nebPath, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("neb %q did not end within %v\nstdout:\n%s\nstderr:\n%s", args, limit, &stdout, &stderr)
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("neb %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// neb runs neb, which must exit with status 0, and returns what it wrote to standard output.
func neb(t testing.TB, args ...string) string {
	t.Helper()
	r := tryNeb(t, 10*time.Minute, args...)
	if r.code != 0 {
		t.Fatalf("neb %q: exit status %d\nstdout:\n%s\nstderr:\n%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// blobs returns a directory with blobs: for x86_64 what neb build writes, for aarch64 those of [vm.Blobs].
// NEB_BLOBS names others.
func blobs(t testing.TB, arch string) string {
	t.Helper()
	if os.Getenv("NEB_BLOBS") != "" || arch != "x86_64" {
		return vm.Blobs(t, arch)
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, arch)
}

var built = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(nebPath), "result")
	out, err := exec.Command(nebPath, "build", "--arch", "x86_64", "-o", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("neb build: %w\n%s", err, out)
	}
	return dir, nil
})
