//go:build unix

package cli

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain runs neb itself instead of the tests if the variable holds its arguments.
func TestMain(m *testing.M) {
	if args := os.Getenv("NEB_TEST_ARGS"); args != "" {
		grace = 100 * time.Millisecond
		os.Exit(Main(strings.Fields(args), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// One signal ends neb even if a command does not end: here it waits for input that never comes.
func TestSignal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "NEB_TEST_ARGS=attest verify -")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A pipe holds 64 KiB: after this, the command is reading.
	if _, err := stdin.Write(make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d, expected %d: %s", code, 128+int(syscall.SIGTERM), &stderr)
	}
	if want := "neb: terminated: cleanup exceeded 100ms, exiting\n"; stderr.String() != want {
		t.Errorf("found %q, expected %q", &stderr, want)
	}
}
