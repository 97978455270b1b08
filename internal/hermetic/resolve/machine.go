package resolve

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// SumDBOfMachine returns this machine's GOSUMDB: from 'go env' if Go is installed, else from the environment.
func SumDBOfMachine(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "go", "env", "GOSUMDB")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	if out, err := cmd.Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return os.Getenv("GOSUMDB")
}
