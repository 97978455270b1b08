package remote

import (
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/registries"
)

// TestDebianRegistry uses a registry without referrers API that keeps its blobs on disk.
func TestDebianRegistry(t *testing.T) {
	address := registries.Debian(t)
	testOutputs(t, func(t *testing.T) (func() *Remote, *server) {
		return func() *Remote { return openTest(t, address+"/team/neb") }, nil
	})
}
