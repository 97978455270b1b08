package eif_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestElsewhere compiles the package and its tests for the other systems that it is promised for.
func TestElsewhere(t *testing.T) {
	for _, target := range [][2]string{{"darwin", "arm64"}, {"windows", "amd64"}} {
		cmd := exec.Command("go", "test", "-c", "-o", t.TempDir()+"/test", ".")
		cmd.Env = append(os.Environ(), "GOOS="+target[0], "GOARCH="+target[1], "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", target[0], err, out)
		}
	}
}
