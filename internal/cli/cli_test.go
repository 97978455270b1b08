package cli

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain runs neb itself, in the place of the tests, where the variable says with which arguments.
func TestMain(m *testing.M) {
	if args := os.Getenv("NEB_TEST_ARGS"); args != "" {
		grace = time.Second
		os.Exit(Main(strings.Fields(args), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// One signal ends neb, even where it waits for something that never comes.
func TestSignal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "NEB_TEST_ARGS=attest verify -")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // until it reads
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatal("it did not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) && code != -1 || time.Since(began) > 20*time.Second {
		t.Errorf("status %d after %v: %s", code, time.Since(began), &said)
	}
}
