//go:build slow

package eif_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestElsewhere compiles the public packages, those of `neb eif` and `neb attest`, and their tests for the
// other systems that neb supports.
func TestElsewhere(t *testing.T) {
	for _, target := range [][2]string{{"darwin", "arm64"}, {"windows", "amd64"}} {
		cmd := exec.Command("go", "vet", "./eif", "./image", "./initramfs", "./kernel", "./nsm",
			"./internal/inspect", "./internal/pack", "./internal/sign")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "GOOS="+target[0], "GOARCH="+target[1], "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", target[0], err, out)
		}
	}
}
