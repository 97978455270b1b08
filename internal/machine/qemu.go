package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

const mib = 1 << 20

// MinMemory is the least memory that nitro-cli would start an image of the given size with, in bytes: four times the image.
func MinMemory(size int64) int64 { return (4*size + mib - 1) / mib * mib }

// DefaultMemory is the memory of a machine that nobody chose one for, in bytes: what nitro-cli would insist on, and not less than 512 MiB.
func DefaultMemory(size int64) int64 { return max(MinMemory(size), 512*mib) }

// A board is the QEMU machine of an architecture.
type board struct {
	program string // in bin of an emulator
	cmdline string // appended, so that the enclave's kernel finds what this board has
	tcg     string // appended where there is no KVM
	single  string // -smp of one processor where there is no KVM; "" is 1
	note    string // what a user should know about it
	args    func(m *Machine, img *image) ([]string, error)
}

var boards = map[string]board{
	eif.X86_64: {
		program: "qemu-system-x86_64",
		// reboot=k asks a keyboard controller that is not there, ten times, which takes seconds on a busy machine.
		cmdline: "reboot=t",
		// Under load and without KVM the check of the timer interrupt fails now and then, and the kernel panics.
		tcg: "no_timer_check",
		// For a machine that will never have a second processor, TCG translates instructions with a lock prefix, which are Linux's memory barriers, into
		// plain ones, as if nobody else were looking. The device is: a kick that the enclave leaves out by mistake means a queue that stands still.
		single: "1,maxcpus=2",
		args: func(m *Machine, img *image) ([]string, error) {
			return []string{"-M", "nitro-enclave,vsock=vsock,id=i-0123456789abcdef0-enc0123456789abcde", "-kernel", img.path}, nil
		},
	},
	eif.AArch64: {
		program: "qemu-system-aarch64",
		cmdline: "console=ttyAMA0",
		note:    "aarch64 is emulated without a Nitro Secure Module: there is no /dev/nsm",
		args: func(m *Machine, img *image) ([]string, error) {
			kernel, initrd, err := m.sections(img)
			return []string{
				"-M", "virt,memory-backend=memory", "-kernel", kernel, "-initrd", initrd,
				"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%d,share=on", m.cfg.Memory),
				"-device", "vhost-user-vsock-device,chardev=vsock",
			}, err
		},
	},
}

// smp is the value of -smp for n processors.
func (b board) smp(accel string, n int) string {
	if n == 1 && accel == "tcg" && b.single != "" {
		return b.single
	}
	return strconv.Itoa(n)
}

// arguments is QEMU's command line.
func (m *Machine) arguments(ctx context.Context, program string, img *image) ([]string, error) {
	b := boards[img.arch]
	args, err := b.args(m, img)
	if err != nil {
		return nil, err
	}
	words := []string{b.cmdline}
	accel := m.cfg.Accel
	if accel != "kvm" && accel != "tcg" {
		accel = "tcg"
		if kvmWorks(ctx, program, m.dir, img.arch) {
			accel = "kvm"
		}
	}
	if accel == "tcg" {
		words = append(words, b.tcg)
	}
	// A kernel that panicked has nothing more to say than what it said.
	// init then need not give anybody time to read either. A processor that halts would leave QEMU running for ever; the last of these words counts.
	words = append(words, "panic=-1 neb.linger=0s neb.end=reboot", m.cfg.Cmdline)
	cmdline := strings.Join(strings.Fields(strings.Join(words, " ")), " ")
	if img.arch != eif.X86_64 {
		own, err := img.file.Cmdline()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", img.path, err)
		}
		cmdline = own + " " + cmdline
	}
	args = append(args,
		"-append", cmdline, "-accel", accel, "-cpu", "max",
		"-m", strconv.FormatInt((m.cfg.Memory+mib-1)/mib, 10)+"M", "-smp", b.smp(accel, m.cfg.CPUs),
		"-nodefaults", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=vsock,path="+m.path("vsock"),
		"-chardev", "socket,id=monitor,path="+m.path("monitor"), "-mon", "chardev=monitor,mode=control",
	)
	return append(args, m.cfg.Args...), nil
}

// sections writes the kernel and the joined ramdisks of an image into files.
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

// findQEMU is the program for arch of an emulator, which may be a directory or that program itself.
func findQEMU(emulator, arch string) (string, error) {
	st, err := os.Stat(emulator)
	if err != nil {
		if path, err := exec.LookPath(emulator); err == nil && !strings.Contains(emulator, "/") {
			return path, nil
		}
		return "", fmt.Errorf("QEMU: %w", err)
	}
	if st.IsDir() {
		return filepath.Join(emulator, "bin", boards[arch].program), nil
	}
	return emulator, nil
}
