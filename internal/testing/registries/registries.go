// Package registries starts registries that others wrote, on loopback.
package registries

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/loopback"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// Debian starts the registry that Debian packages, which has no referrers API, and returns HOST:PORT. It ends
// with the test.
func Debian(t testing.TB) string {
	t.Helper()
	program := require.Command(t, "docker-registry")
	address := loopback.Free(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			r.Body.Close()
			return address
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not answer at %s: %v", program, address, err)
		}
	}
}

// Referrers starts go-containerregistry's registry, which has the referrers API, and returns HOST:PORT. It
// ends with the test.
func Referrers(t testing.TB) string {
	s := httptest.NewServer(registry.New(registry.WithReferrersSupport(true),
		registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
