//go:build slow

package image_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

func init() {
	engines = append(engines,
		engine{"26.1", func(t *testing.T, root string) string {
			return engine26(t, "NEB_DOCKER26", root, "overlay2")
		}, false},
		engine{"26.1, images in containerd", func(t *testing.T, root string) string {
			return engine26(t, "NEB_DOCKER26_CONTAINERD", root, "overlayfs")
		}, false})
}

// engine26 is what a variable says, or an engine that the test starts where nothing may be left out.
func engine26(t *testing.T, variable, root, driver string) string {
	if host := os.Getenv(variable); host != "" {
		return host
	}
	if os.Getenv("NEB_REQUIRE") == "" {
		// NEB_REQUIRE starts it
		t.Skipf("this machine lacks a second Docker engine (start test/engine/engine26.sh ROOT %s, set "+
			"%s=unix://ROOT/run/docker.sock)", driver, variable)
	}
	require.Root(t)
	require.Command(t, "docker")
	cmd := exec.Command("../test/engine/engine26.sh", root, driver)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
		}
		log.Close()
	})
	socket := filepath.Join(root, "run", "docker.sock")
	for range 600 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return "unix://" + socket
		}
		select {
		case err := <-ended:
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("engine26.sh: %v\n%s", err, said)
		case <-time.After(time.Second):
		}
	}
	t.Fatal("the engine does not answer")
	return ""
}
