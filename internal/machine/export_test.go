package machine

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeArchs are the architectures that there is a probe for KVM for.
func ProbeArchs() []string {
	var archs []string
	for arch := range probes {
		archs = append(archs, arch)
	}
	return archs
}

// The descriptors of the devices in QEMU.
const (
	VsockFD = vsockFD
	NSMFD   = nsmFD
)

// RunProbe runs a probe under emulation; with idle, one whose code does nothing.
func RunProbe(ctx context.Context, emulator, arch, dir string, idle bool, limit time.Duration) (bool, error) {
	q, err := findQEMU(ctx, emulator, arch)
	if err != nil {
		return false, err
	}
	p := probes[arch]
	if idle {
		p.code = make([]byte, 64<<10)
	}
	return p.run(ctx, q, dir, "tcg", limit), nil
}

// Firmware is a ROM of 64 KiB that runs code, at most 240 bytes, in real mode.
func Firmware(code []byte) []byte {
	rom := resetVector([]byte{0xe9, 0x0d, 0xff}) // jmp 0xff00
	copy(rom[0xff00:], code)
	return rom
}

// SMP is the value of -smp that a machine of arch with one processor is started with.
func SMP(arch, accel string) string { return boards[arch].smp(accel, 1) }

// WithoutNamespaces makes machines start as where no namespace can be made, until t ends.
func WithoutNamespaces(t testing.TB) {
	was := namespaces
	namespaces = unix.CLONE_NEWUSER | unix.CLONE_SIGHAND // which the kernel rejects
	t.Cleanup(func() { namespaces = was })
}
