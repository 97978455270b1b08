//go:build slow

package e2e

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestLargeImage boots a 1 GB image, in the memory that nitro-cli would ask for.
func TestLargeImage(t *testing.T) {
	body := noise(1 << 29)
	image := ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "sum", "/a", "/b"}},
		entry{"a", 0o644, body}, entry{"b", 0o644, body}))
	eif, _ := pack(t, image)
	r := boot(t, eif, "--timeout", "10m")
	r.says(t, sumLine("/a", body))
	r.says(t, sumLine("/b", body))
}

// TestAArch64KMS is TestKMS on the other architecture.
func TestAArch64KMS(t *testing.T) { dataKey(t, "aarch64", "arm64", armPath) }
