//go:build slow

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestNitroEnclave compares what neb eif build prints with the registers that QEMU's own emulation of an
// enclave computes: its loader and its secure module share no code with neb's.
func TestNitroEnclave(t *testing.T) {
	qemu := nitroQEMU(t)
	certificate, key := signer(t)
	image := ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "pcrs", "0", "1", "2", "8"}}))
	for name, args := range map[string][]string{
		"nitro-cli's form": {"--compat", "nitro-cli"},
		"structured":       nil,
		"signed":           {"--signing-certificate", certificate, "--private-key", key},
		"compressed root":  {"--rootfs-format", "erofs"},
	} {
		t.Run(name, func(t *testing.T) {
			eif, m := pack(t, image, args...)
			if m.Measurements["PCR8"] == "" {
				m.Measurements["PCR8"] = strings.Repeat("0", 96)
			}
			r := boot(t, eif, "--qemu", qemu, "--machine", "nitro-enclave")
			r.registers(t, m, "PCR0", "PCR1", "PCR2", "PCR8")
		})
	}
}

// nitroQEMU returns a QEMU with the machine nitro-enclave: the one that NEB_NITRO_QEMU names, or one that
// nitro-qemu.sh compiles.
func nitroQEMU(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("NEB_NITRO_QEMU"); path != "" {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	dir := t.TempDir()
	var stderr bytes.Buffer
	build := exec.CommandContext(ctx, "./nitro-qemu.sh", dir)
	build.Stderr = &stderr
	out, err := build.Output()
	if build.ProcessState != nil && build.ProcessState.ExitCode() == 77 {
		require.Lacks(t, strings.TrimSpace(stderr.String()))
	}
	if err != nil {
		t.Fatalf("nitro-qemu.sh: %v\n%.4000s\n%s", err, out[max(0, len(out)-4000):], &stderr)
	}
	return filepath.Join(dir, "qemu-system-x86_64")
}
