//go:build slow && linux

package kernel_test

import (
	"path/filepath"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// TestSecondSeries compiles the kernels of the second series, checks their configurations, and boots them to
// the probe of TestBoot.
func TestSecondSeries(t *testing.T) {
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) {
			blobs := vm.Series(t, arch, "7.3")
			checkConfiguration(t, arch, filepath.Join(blobs, image+".config"))
			boot(t, arch, blobs, "crc32c", "gcm(aes)", "rfc7539(chacha20,poly1305)", "sha3-256")
		})
	}
}
