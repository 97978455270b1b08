package kernel_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/kernelprobe"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// images is the kernel's file name for each architecture.
var images = map[string]string{"x86_64": "bzImage", "aarch64": "Image"}

// TestBuiltConfigurations judges what was built by the configuration that stands beside it.
func TestBuiltConfigurations(t *testing.T) {
	for arch, image := range images {
		final, err := os.ReadFile(filepath.Join(vm.Blobs(t, arch), image+".config"))
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.Check(kernel.Fragments(arch), final); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		if err := kernel.CheckHardening(arch, final); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		if line := strings.Split(string(final), "\n")[2]; !strings.HasPrefix(line, "# Linux/") || !strings.HasSuffix(line, " Kernel Configuration") {
			t.Errorf("%s: line 3 is %q, want the one nitro-cli reads: # Linux/ARCH VERSION Kernel Configuration", arch, line)
		}
	}
}

// TestBoot boots the kernels to a PID 1 that tries every feature that docs/kernel.md promises, with the
// processor's random numbers trusted and not.
func TestBoot(t *testing.T) {
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) {
			blobs := vm.Blobs(t, arch)
			m := kernelprobe.Machine{
				QEMU:   emulator(t, arch),
				Arch:   arch,
				Kernel: filepath.Join(blobs, image),
				Module: filepath.Join(blobs, "nsm.ko"),
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			probe, err := kernelprobe.Build(ctx, arch, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			line := kernel.Cmdline(arch)
			for _, trust := range []string{"on", "off"} {
				m.Cmdline = strings.ReplaceAll(line, "random.trust_cpu=on", "random.trust_cpu="+trust)
				said, console, err := kernelprobe.Run(ctx, m, probe)
				if err != nil {
					t.Fatalf("random.trust_cpu=%s: %v", trust, err)
				}
				judge(t, said, console)
			}
		})
	}
}

// TestNodes boots the kernels on machines of another kind, with two processors and two nodes of memory: the
// PC, which describes them by ACPI alone, and Arm's by a device tree. QEMU's own firmware is needed, so it is
// the machine's own QEMU.
func TestNodes(t *testing.T) {
	kinds := map[string]string{"x86_64": "q35,usb=off", "aarch64": "virt"}
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) {
			blobs := vm.Blobs(t, arch)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			probe, err := kernelprobe.Build(ctx, arch, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			said, console, err := kernelprobe.Run(ctx, kernelprobe.Machine{
				QEMU:    require.Command(t, "qemu-system-"+arch),
				Arch:    arch,
				Kernel:  filepath.Join(blobs, image),
				Module:  filepath.Join(blobs, "nsm.ko"),
				Cmdline: kernel.Cmdline(arch),
				Args: []string{"-M", kinds[arch], "-smp", "2,sockets=2",
					"-object", "memory-backend-ram,id=m0,size=256M", "-numa", "node,memdev=m0,cpus=0",
					"-object", "memory-backend-ram,id=m1,size=256M", "-numa", "node,memdev=m1,cpus=1"},
			}, probe)
			if err != nil {
				t.Fatal(err)
			}
			is := judge(t, said, console)
			if is["nodes"] != "0-1" || is["cpus"] != "2" {
				t.Errorf("nodes with memory %q, processors %q: want 0-1 and 2", is["nodes"], is["cpus"])
			}
		})
	}
}

// emulator returns the QEMU to use: the one in NEB_QEMU, else the machine's own.
func emulator(t *testing.T, arch string) string {
	t.Helper()
	if dir := os.Getenv("NEB_QEMU"); dir != "" {
		return filepath.Join(dir, "bin", "qemu-system-"+arch)
	}
	return require.Command(t, "qemu-system-"+arch)
}

// judge reports what the probe found wrong, and returns what it told.
func judge(t *testing.T, said []string, console string) map[string]string {
	t.Helper()
	is := make(map[string]string)
	ended := false
	for _, line := range said {
		verb, rest, _ := strings.Cut(line, " ")
		name, value, _ := strings.Cut(rest, ": ")
		switch verb {
		case "is":
			is[name] = value
		case "fail":
			t.Errorf("%s: %s", name, value)
		case "end":
			ended = true
		}
	}
	if !ended {
		t.Errorf("the probe did not come to its end:\n%s", console)
	}
	if year, _ := strconv.Atoi(is["year"]); year < 2024 || year > time.Now().UTC().Year()+1 {
		t.Errorf("the clock is at %q, want the host's time", is["time"])
	}
	if is["root"] != "tmpfs" {
		t.Errorf("the root is %q, want tmpfs", is["root"])
	}
	for _, word := range []string{"Unknown kernel command line", "WARNING:", "BUG:", "W+X"} {
		for _, line := range strings.Split(console, "\n") {
			if strings.Contains(line, word) && !strings.Contains(line, "passed") {
				t.Errorf("the kernel says: %s", line)
			}
		}
	}
	return is
}
