// Package kernelprobe starts a kernel under QEMU with the probe as its PID 1, for the tests and the benchmark
// of package kernel. It is no way to run enclaves: package machine is.
package kernelprobe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Machine is what a kernel is started on.
type Machine struct {
	QEMU    string // the program; empty for the one in PATH
	Arch    string
	Kernel  string // bzImage or Image
	Module  string // nsm.ko; empty for none
	Cmdline string
	Count   bool // let the guest's clock count instructions, 1 ns each

	Args []string // more of QEMU's, which win over the others
}

// machines is the command line of QEMU (an enclave has no ACPI, so x86-64 is started without), for each
// architecture, but for what Machine names.
var machines = map[string]struct {
	qemu, goarch, console string
	args                  []string
}{
	"x86_64":  {"qemu-system-x86_64", "amd64", "ttyS0", []string{"-M", "microvm,acpi=off"}},
	"aarch64": {"qemu-system-aarch64", "arm64", "ttyAMA0", []string{"-M", "virt"}},
}

// Build compiles the probe for arch into dir and returns its path.
func Build(ctx context.Context, arch, dir string) (string, error) {
	path := filepath.Join(dir, "probe-"+arch)
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path,
		"github.com/nitro-enclaves-bootstrap/neb/internal/testing/kernelprobe/probe")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+machines[arch].goarch)
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build the probe for %s: %w\n%s", arch, err, out)
	}
	return path, nil
}

// Run starts m with the probe at path as its PID 1 and returns what the probe said, without "probe: " before
// it, and all that was on the console.
func Run(ctx context.Context, m Machine, probe string) (said []string, console string, err error) {
	dir, err := os.MkdirTemp("", "neb-probe-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(dir)
	ramdisk := filepath.Join(dir, "ramdisk")
	if err := pack(ramdisk, probe, m.Module); err != nil {
		return nil, "", err
	}
	kind := machines[m.Arch]
	qemu := m.QEMU
	if qemu == "" {
		qemu = kind.qemu
	}
	accel := []string{"-accel", "tcg"}
	if m.Count {
		accel = []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"}
	}
	line := m.Cmdline + " no_timer_check"
	if m.Arch == "aarch64" {
		line += " console=" + kind.console
	}
	args := append(append(kind.args, accel...), "-cpu", "max", "-m", "512M", "-smp", "1", "-nodefaults",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", m.Kernel, "-initrd", ramdisk,
		"-append", line)
	command := exec.CommandContext(ctx, qemu, append(args, m.Args...)...)
	command.WaitDelay = 5 * time.Second
	var out, wrong bytes.Buffer
	command.Stdout, command.Stderr = &out, &wrong
	err = command.Run()
	console = strings.ReplaceAll(out.String(), "\r", "")
	for _, line := range strings.Split(console, "\n") {
		if _, words, found := strings.Cut(line, "probe: "); found {
			said = append(said, words)
		}
	}
	if err != nil {
		return said, console, fmt.Errorf("%s: %w\n%s", command, err, wrong.String())
	}
	if len(said) == 0 {
		return nil, console, fmt.Errorf("%s: the probe said nothing\n%s", m.Kernel, console)
	}
	return said, console, nil
}

// pack writes a ramdisk with the probe as init, and the module if there is one.
func pack(ramdisk, probe, module string) error {
	f, err := os.Create(ramdisk)
	if err != nil {
		return err
	}
	defer f.Close()
	w := initramfs.NewWriter(f)
	for _, h := range []initramfs.Header{
		{Name: "dev", Mode: initramfs.TypeDir | 0o755},
		{Name: "dev/console", Mode: initramfs.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: initramfs.TypeChar | 0o666, Major: 1, Minor: 3},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	for _, file := range []struct{ name, from string }{{"init", probe}, {"nsm.ko", module}} {
		if file.from == "" {
			continue
		}
		body, err := os.ReadFile(file.from)
		if err != nil {
			return err
		}
		h := &initramfs.Header{Name: file.name, Mode: initramfs.TypeFile | 0o755, Size: int64(len(body))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.ReadFrom(bytes.NewReader(body)); err != nil && err != io.EOF {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}
