package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
)

const mib = 1 << 20

// NitroEnclave is the value of [Config].Machine for QEMU's own emulation of a Nitro Enclave (since QEMU 9.2,
// x86_64, where QEMU was built with libcbor). It has a loader, measurements and a Nitro Secure Module that
// share no code with this package; its attestation documents are not signed.
const NitroEnclave = "nitro-enclave"

// Default names of the instance and the enclave.
const (
	instance = "i-0123456789abcdef0"
	enclave  = "enc0123456789abcde"
)

// A board is the QEMU machine of an architecture.
type board struct {
	program string   // in bin of an emulator
	machine []string // arguments that choose the machine
	cmdline string   // appended to the command line, for the devices of this board
	tcg     string   // appended without KVM
	slow    string   // features that -cpu lacks without KVM
	// Of one processor without KVM: what is appended, and -smp, where "" is 1.
	alone, single string
}

var boards = map[string]board{
	arch.X86_64: {
		program: "qemu-system-x86_64",
		// Like an enclave: no PCI and no ACPI, processors in the MP table, virtio devices on the command
		// line.
		machine: []string{
			"-M", "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,memory-backend=memory",
			"-bios", "qboot.rom",
		},
		// reboot=k asks a keyboard controller that is not there, ten times, which takes seconds on a busy
		// machine.
		cmdline: "reboot=t",
		// Under load and without KVM the check of the timer interrupt fails now and then, and the kernel
		// panics.
		tcg: "no_timer_check",
		// The kernel waits while it calibrates the timer of its processor's APIC. A single processor can use
		// the PIT instead. Without a second processor the kernel also removes 8,000 lock prefixes, and
		// switches its address space twice for each, which empties TCG's TLB.
		alone: "nolapic_timer noreplace-smp",
		// For a machine that will never have a second processor, TCG translates instructions with a lock
		// prefix, which are Linux's memory barriers, into plain ones. The devices see the difference: the
		// enclave would sometimes omit a notification, and its queue would stall.
		single: "1,maxcpus=2",
		// With these Linux copies by "rep movsb", which TCG does byte by byte.
		slow: ",-erms,-fsrm,-fsrs",
	},
	arch.AArch64: {
		program: "qemu-system-aarch64",
		machine: []string{"-M", "virt,memory-backend=memory"},
		cmdline: "console=ttyAMA0",
	},
}

// smp returns the value of -smp for n processors.
func (b board) smp(accel string, n int) string {
	if n == 1 && accel == "tcg" && b.single != "" {
		return b.single
	}
	return strconv.Itoa(n)
}

// arguments returns QEMU's command line.
func (m *Machine) arguments(ctx context.Context, q qemu, img *image) ([]string, error) {
	b := boards[img.arch]
	words := []string{b.cmdline}
	accel := m.cfg.Accel
	if accel != "kvm" && accel != "tcg" {
		accel = "tcg"
		if kvmWorks(ctx, q, m.dir, img.arch) {
			accel = "kvm"
		}
	}
	cpu := "max"
	if accel == "tcg" {
		words, cpu = append(words, b.tcg), cpu+b.slow
		if m.cfg.CPUs == 1 {
			words = append(words, b.alone)
		}
	}
	// A kernel needs no linger after a panic, nor init after a failure, and QEMU would not exit if the
	// enclave halted. Of words that repeat, the last counts.
	words = append(words, "panic=-1", contract.SwitchLinger+"=0s", contract.SwitchEnd+"=reboot",
		m.cfg.Cmdline)
	var args []string
	if m.cfg.Machine == NitroEnclave {
		// QEMU appends the words to the image's command line, and has the devices.
		args = append(args, "-M", NitroEnclave+",vsock=vsock,id="+m.module(), "-kernel", img.path)
	} else {
		own, err := img.file.Cmdline()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", img.path, err)
		}
		words = append([]string{own}, words...)
		kernel, initrd, err := m.sections(img)
		if err != nil {
			return nil, err
		}
		args = append(args, b.machine...)
		args = append(args,
			"-kernel", kernel, "-initrd", initrd,
			"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%d,share=on", m.cfg.Memory),
			"-device", "vhost-user-vsock-device,chardev=vsock",
			"-chardev", socket("nsm", nsmFD),
			"-device", fmt.Sprintf("%s,chardev=nsm,virtio-id=%d,num_vqs=1,vq_size=128,config_size=0",
				nsmFrontEnd, nsm.VirtioID),
		)
	}
	args = append(args,
		"-append", strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "),
		"-accel", accel, "-cpu", cpu,
		"-m", strconv.FormatInt(m.cfg.Memory/mib, 10)+"M", "-smp", b.smp(accel, m.cfg.CPUs),
		"-nodefaults", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", socket("vsock", vsockFD),
		"-chardev", socket("monitor", monitorFD), "-mon", "chardev=monitor,mode=control",
	)
	if q.sandbox {
		args = append(args,
			"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	return append(args, m.cfg.Args...), nil
}

// The file descriptors that QEMU inherits, after standard error.
const (
	monitorFD = iota + 3
	vsockFD
	nsmFD
)

func socket(id string, fd int) string { return fmt.Sprintf("socket,id=%s,fd=%d", id, fd) }

// nsmFrontEnd is the device of QEMU, since 10.1, whose back end can be any virtio device.
const nsmFrontEnd = "vhost-user-test-device"

// module is the name of the enclave's Nitro Secure Module.
func (m *Machine) module() string { return m.cfg.InstanceID + "-" + enclave }

// startNSM makes the enclave's Nitro Secure Module, with the registers as EC2 sets them for the image.
func (m *Machine) startNSM(ctx context.Context, img *image) error {
	cfg := nsm.Config{ID: m.module()}
	if !m.cfg.Debug {
		measured := m.cfg.Measured
		if measured == nil {
			pass, err := img.file.Measure(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", img.path, err)
			}
			measured = &pass.Measurements
		}
		cfg.PCRs = map[int]nsm.Digest{
			0: nsm.Digest(measured.PCR0), 1: nsm.Digest(measured.PCR1), 2: nsm.Digest(measured.PCR2),
			4: nsm.Digest(eif.Extend([]byte(m.cfg.InstanceID))),
		}
		if m.cfg.RoleARN != "" {
			cfg.PCRs[3] = nsm.Digest(eif.Extend([]byte(m.cfg.RoleARN)))
		}
		if measured.PCR8 != nil {
			cfg.PCRs[8] = nsm.Digest(*measured.PCR8)
		}
	}
	root := m.cfg.Root
	if root == nil {
		var err error
		if root, err = devca.New(); err != nil {
			return fmt.Errorf("attestation authority: %w", err)
		}
	}
	cfg.Chain = root.Identity(m.cfg.InstanceID, m.module()).Chain
	m.nsm = nsm.NewDevice(cfg, func(err error, failed bool) {
		if failed {
			m.kill(fmt.Errorf("NSM device: %w", err))
			return
		}
		text := fmt.Sprintf("the enclave's NSM driver violates the protocol, the NSM fails until a reset: %v",
			err)
		go m.event(Event{Kind: Parent, Text: text})
	})
	return nil
}

// sections writes the kernel and the ramdisks of an image to files.
func (m *Machine) sections(img *image) (kernel, initrd string, err error) {
	kernel, initrd = m.path("kernel"), m.path("initrd")
	k, ok := img.file.Find(eif.Kernel)
	if !ok {
		return "", "", fmt.Errorf("%s: no kernel section", img.path)
	}
	for path, sections := range map[string][]eif.Section{kernel: {k}, initrd: img.file.All(eif.Ramdisk)} {
		var parts []io.Reader
		for _, s := range sections {
			parts = append(parts, img.file.Content(s))
		}
		f, err := os.Create(path)
		if err != nil {
			return "", "", err
		}
		_, err = io.Copy(f, io.MultiReader(parts...))
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", img.path, err)
		}
	}
	return kernel, initrd, nil
}

// qemu is a QEMU program for one architecture.
type qemu struct {
	path    string
	args    []string // of path, before those of QEMU
	files   []string // directories that it reads
	sandbox bool     // it has -sandbox: it was built with libseccomp
}

// findQEMU returns QEMU for an architecture. emulator is a directory with bin/qemu-system-*, or QEMU itself.
// The directory that neb build makes has its own loader and libraries, and QEMU can read nothing else.
func findQEMU(ctx context.Context, emulator, architecture string) (qemu, error) {
	program := boards[architecture].program
	if loaders, _ := filepath.Glob(filepath.Join(emulator, "lib", "ld-linux-*.so.*")); len(loaders) == 1 {
		lib, own := filepath.Join(emulator, "lib"), filepath.Join(emulator, "libexec", program)
		return qemu{
			path: loaders[0], args: []string{"--library-path", lib, own, "-L",
				filepath.Join(emulator, "share")},
			files: []string{emulator}, sandbox: true,
		}, nil
	}
	st, err := os.Stat(emulator)
	if err == nil && st.IsDir() {
		emulator = filepath.Join(emulator, "bin", program)
	}
	path, err := exec.LookPath(emulator)
	if err != nil {
		return qemu{}, fmt.Errorf("QEMU: %w", err)
	}
	q := qemu{path: path, files: []string{"/"}}
	q.sandbox = q.command(ctx, "-sandbox", "on", "-version").Run() == nil
	return q, nil
}

// Installed returns the QEMU for an architecture in PATH. It fails if that is older than 10.1, the first with
// the device of the NSM.
func Installed(ctx context.Context, architecture string) (string, error) {
	path, err := exec.LookPath(boards[architecture].program)
	if err != nil {
		return "", err
	}
	out, err := qemu{path: path}.command(ctx, "-version").Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	var major, minor int
	if n, _ := fmt.Sscanf(string(out), "QEMU emulator version %d.%d", &major, &minor); n != 2 ||
		major < 10 || major == 10 && minor < 1 {
		first, _, _ := strings.Cut(string(out), "\n")
		return "", fmt.Errorf("%s: expected version 10.1 or later, found %.100q", path, first)
	}
	return path, nil
}

// command returns a command with these arguments. QEMU sees no variable that it does not need: the user's
// credentials may be among the others.
func (q qemu) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, q.path, slices.Concat(q.args, args)...)
	if q.args != nil {
		cmd.Env = []string{"QEMU_MODULE_DIR=/nonexistent"} // not those of another QEMU
		return cmd
	}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		cmd.Env = append(cmd.Env, name+"="+os.Getenv(name))
	}
	return cmd
}
