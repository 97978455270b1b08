package machine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// A probe is a machine that runs a few instructions and exits with its own status. /dev/kvm exists on many
// machines where KVM does not work: nested, or in a container.
type probe struct {
	goarch string // the machines whose KVM runs this architecture
	// flags match /proc/cpuinfo where virtualization is in hardware. Some hosts have a KVM in software
	// (kvm-pvm), which interprets the kernel for a long time, thousands of times slower than QEMU's TCG.
	flags  *regexp.Regexp
	code   []byte // the file that -bios or -kernel takes
	args   []string
	status int
}

var probes = map[string]probe{
	eif.X86_64: {
		goarch: "amd64",
		flags:  regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`),
		code:   resetVector([]byte{0xb0, 0x10, 0xe6, 0xf4, 0xf4}), // mov $0x10, %al; out %al, $0xf4; hlt
		args:   []string{"-M", "microvm,acpi=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"},
		status: 0x10<<1 | 1,
	},
	eif.AArch64: {
		goarch: "arm64",
		// mov w0, #0x84000008 (PSCI SYSTEM_OFF); hvc #0; b .
		code: []byte{
			0x00, 0x01, 0x80, 0x52, 0x00, 0x80, 0xb0, 0x72, 0x02, 0x00, 0x00, 0xd4, 0x00, 0x00, 0x00, 0x14,
		},
		args: []string{"-M", "virt", "-m", "16M", "-kernel"},
	},
}

// resetVector returns a firmware of 64 KiB that runs code, at most 16 bytes.
func resetVector(code []byte) []byte {
	rom := make([]byte, 64<<10)
	copy(rom[len(rom)-16:], code)
	return rom
}

// run boots the probe with the given accelerator and reports whether it did what it should. It writes its
// file to dir.
func (p probe) run(ctx context.Context, q qemu, dir, accel string, limit time.Duration) bool {
	file := filepath.Join(dir, "probe")
	if os.WriteFile(file, p.code, 0o600) != nil {
		return false
	}
	defer os.Remove(file)
	// A processor that runs nothing does not exit by itself.
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{"-nodefaults", "-display", "none", "-accel", accel, "-cpu", "max"}, p.args...)
	cmd := q.command(ctx, append(args, file)...)
	err := cmd.Run()
	var exit *exec.ExitError
	exited := err == nil || errors.As(err, &exit)
	return exited && ctx.Err() == nil && cmd.ProcessState.ExitCode() == p.status
}

// kvmWorks reports whether KVM with this QEMU runs an architecture here, in hardware.
func kvmWorks(ctx context.Context, q qemu, dir, arch string) bool {
	p := probes[arch]
	if p.goarch != runtime.GOARCH {
		return false
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	kvm.Close()
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && p.flags != nil && !p.flags.Match(cpuinfo) {
		return false
	}
	return p.run(ctx, q, dir, "kvm", 3*time.Second)
}
