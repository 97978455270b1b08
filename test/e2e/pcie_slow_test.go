//go:build slow

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// TestPCIeKernel boots the kernel of the profile pcie as docs/kernel.md describes: from an erofs on /dev/vda,
// a disk on the PCI bus, that dm-verity verifies. Then a bit of the disk is changed. The emulator in the
// store has no such bus, so the QEMU in PATH is used.
func TestPCIeKernel(t *testing.T) {
	qemu, mkfs := require.Command(t, "qemu-system-x86_64"), require.Command(t, "mkfs.erofs")
	verity := require.Command(t, "veritysetup")
	work := t.TempDir()
	at := func(name string) string { return filepath.Join(work, name) }
	neb(t, "build", "kernel", "--profile", "pcie", "--arch", "x86_64", "-o", at("result"))

	program, err := os.ReadFile(guestPath)
	if err != nil {
		t.Fatal(err)
	}
	content := noise(100_000)
	for name, body := range map[string][]byte{"tree/guest": program, "tree/data": content} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), body, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run(mkfs, "-T0", at("disk"), at("tree"))
	info, err := os.Stat(at("disk"))
	if err != nil {
		t.Fatal(err)
	}
	const block, sector = 4096, 512
	size := info.Size()
	out := run(verity, "format", "--no-superblock", "--salt", "-", fmt.Sprintf("--hash-offset=%d", size),
		at("disk"), at("disk"))
	hash := regexp.MustCompile(`(?m)^Root hash:\s+([0-9a-f]{64})$`).FindStringSubmatch(out)
	if hash == nil || size%block != 0 {
		t.Fatalf("an erofs of %d bytes; veritysetup printed\n%s", size, out)
	}
	words, err := os.ReadFile(at("result/x86_64/cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf(`%s no_timer_check panic=-1 root=/dev/dm-0 rootfstype=erofs dm-mod.waitfor=/dev/vda `+
		`dm-mod.create="root,,,ro,0 %d verity 1 /dev/vda /dev/vda %d %d %d %d sha256 %s -" `+
		`init=/guest -- sum /data`,
		strings.TrimSpace(string(words)), size/sector, block, block, size/block, size/block, hash[1])
	boot := func() result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), vm.Patience)
		defer cancel()
		console, err := exec.CommandContext(ctx, qemu, "-M", "q35,usb=off", "-accel", "tcg", "-cpu", "max",
			"-m", "512M", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
			"-kernel", at("result/x86_64/bzImage"), "-append", line,
			"-drive", "if=none,id=root,format=raw,readonly=on,file="+at("disk"),
			"-device", "virtio-blk-pci,drive=root").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", qemu, err, console)
		}
		return result{stdout: string(console)}
	}
	boot().says(t, sumLine("/data", content))

	disk, err := os.ReadFile(at("disk"))
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Index(string(disk), string(content[:64]))
	if start < 0 {
		t.Fatal("the disk does not have the file")
	}
	disk[start] ^= 1
	if err := os.WriteFile(at("disk"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	boot().says(t, "guest: sum: read /data: input/output error")
}
