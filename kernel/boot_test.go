//go:build linux

package kernel_test

import (
	"os"
	"path/filepath"
	"slices"
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

// TestBuiltConfigurations checks the configurations that kernels were built with.
func TestBuiltConfigurations(t *testing.T) {
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) {
			checkConfiguration(t, arch, filepath.Join(vm.Built(t, arch), image+".config"))
		})
	}
}

func checkConfiguration(t *testing.T, arch, path string) {
	t.Helper()
	final, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.Check(kernel.Adapt(kernel.Fragments(arch), kernel.SeriesOf(final)), final); err != nil {
		t.Error(err)
	}
	if err := kernel.CheckHardening(arch, final); err != nil {
		t.Error(err)
	}
	line := strings.Split(string(final), "\n")[2]
	if !strings.HasPrefix(line, "# Linux/") || !strings.HasSuffix(line, " Kernel Configuration") {
		t.Errorf("line 3 is %q, expected %q, which nitro-cli reads", line,
			"# Linux/ARCH VERSION Kernel Configuration")
	}
}

// machine returns a machine with the kernel for arch in blobs, and the probe that is its PID 1.
func machine(t *testing.T, arch, blobs, qemu string) (kernelprobe.Machine, string) {
	t.Helper()
	probe, err := kernelprobe.Build(t.Context(), arch, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return kernelprobe.Machine{
		QEMU:    qemu,
		Arch:    arch,
		Kernel:  filepath.Join(blobs, images[arch]),
		Module:  filepath.Join(blobs, "nsm.ko"),
		Cmdline: kernel.Cmdline(arch),
	}, probe
}

// TestBoot boots the kernels to a PID 1 that tries every feature that docs/kernel.md promises, with the
// processor's random numbers trusted and not.
func TestBoot(t *testing.T) {
	for arch := range images {
		t.Run(arch, func(t *testing.T) {
			boot(t, arch, vm.Built(t, arch))
		})
	}
}

// boot boots the kernel in blobs to the probe. It must allow AF_ALG all algorithms but the restricted ones,
// which it must allow once the switch is off.
func boot(t *testing.T, arch, blobs string, restricted ...string) {
	t.Helper()
	m, probe := machine(t, arch, blobs, filepath.Join(vm.Emulator(t), "bin", "qemu-system-"+arch))
	line := m.Cmdline
	for _, trust := range []string{"on", "off"} {
		m.Cmdline = strings.ReplaceAll(line, "random.trust_cpu=on", "random.trust_cpu="+trust)
		said, console, err := kernelprobe.Run(t.Context(), m, probe)
		if err != nil {
			t.Fatalf("random.trust_cpu=%s: %v", trust, err)
		}
		var found []string
		for fact := range judge(t, said, console) {
			if name, ok := strings.CutPrefix(fact, "restricted "); ok {
				found = append(found, name)
			}
		}
		slices.Sort(found)
		if !slices.Equal(found, restricted) {
			t.Errorf("AF_ALG restricts %q, expected %q", found, restricted)
		}
	}
}

// TestNodes boots the kernels on other machines, with two processors and two memory nodes: a PC, which
// describes them in ACPI tables only, and Arm's virt, in a device tree. This needs firmware that the emulator
// in the store lacks, so the QEMU in PATH is used.
func TestNodes(t *testing.T) {
	kinds := map[string]string{"x86_64": "q35,usb=off", "aarch64": "virt"}
	for arch := range images {
		t.Run(arch, func(t *testing.T) {
			m, probe := machine(t, arch, vm.Built(t, arch), require.Command(t, "qemu-system-"+arch))
			m.Args = []string{"-M", kinds[arch], "-smp", "2,sockets=2",
				"-object", "memory-backend-ram,id=m0,size=256M", "-numa", "node,memdev=m0,cpus=0",
				"-object", "memory-backend-ram,id=m1,size=256M", "-numa", "node,memdev=m1,cpus=1"}
			said, console, err := kernelprobe.Run(t.Context(), m, probe)
			if err != nil {
				t.Fatal(err)
			}
			is := judge(t, said, console)
			if is["nodes"] != "0-1" || is["cpus"] != "2" {
				t.Errorf("nodes with memory %q, processors %q: expected 0-1 and 2", is["nodes"], is["cpus"])
			}
		})
	}
}

// judge reports the failures that the probe found, and returns the facts that it printed.
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
		t.Errorf("the probe did not finish:\n%s", console)
	}
	if year, _ := strconv.Atoi(is["year"]); year < 2024 || year > time.Now().UTC().Year()+1 {
		t.Errorf("the clock is at %q, expected the host's time", is["time"])
	}
	if is["root"] != "tmpfs" {
		t.Errorf("the root is %q, expected tmpfs", is["root"])
	}
	for _, word := range []string{"Unknown kernel command line", "WARNING:", "BUG:", "W+X"} {
		for _, line := range strings.Split(console, "\n") {
			if strings.Contains(line, word) && !strings.Contains(line, "passed") {
				t.Errorf("kernel message: %s", line)
			}
		}
	}
	return is
}
