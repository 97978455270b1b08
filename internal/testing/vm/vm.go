// Package vm gives tests what they need to boot enclaves: blobs, an emulator, and a machine whose console
// they can read.
//
// NEB_BLOBS and NEB_QEMU name blobs and an emulator to use. Without them both come from the store.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
)

// Patience is how long a test waits for a machine that should have answered: much more than it takes on two
// busy processors without KVM.
const Patience = 2 * time.Minute

// built is a thing that is built once in a test binary.
type built struct {
	once sync.Once
	dir  string
	err  error
}

func (b *built) get(t testing.TB, what string, build func() (string, error)) string {
	t.Helper()
	b.once.Do(func() { b.dir, b.err = build() })
	if b.err != nil {
		t.Fatalf("%s: %v", what, b.err)
	}
	return b.dir
}

var (
	emulator built
	blobs    = map[string]*built{eif.X86_64: {}, eif.AArch64: {}}
)

// builder is one for all tests: what it gave stays in the store as long as it is there.
var builder = sync.OnceValues(func() (*component.Builder, error) {
	locked, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return nil, err
	}
	s, err := store.Open("")
	return &component.Builder{Store: s, Lock: locked}, err
})

// Emulator is the directory of an emulator, as [machine.Config] wants it.
func Emulator(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("NEB_QEMU"); dir != "" {
		return dir
	}
	return emulator.get(t, "emulator", func() (string, error) {
		b, err := builder()
		if err != nil {
			return "", err
		}
		return b.Emulator(context.Background())
	})
}

// Blobs returns a directory with the files that enclaves for arch boot with, named as neb build names them.
//
// They are what neb build makes where the store has its kernel. In a quick run, without the build tag slow,
// no kernel is compiled: enclaves for aarch64 then boot Debian's kernel, and the directory also holds the
// modules that it needs (see [Modules]); the kernel of the machine's own architecture must be in the store.
func Blobs(t testing.TB, arch string) string {
	t.Helper()
	if dir := os.Getenv("NEB_BLOBS"); dir != "" {
		return filepath.Join(dir, arch)
	}
	return blobs[arch].get(t, "blobs for "+arch, func() (string, error) {
		b, err := builder()
		if err != nil {
			return "", err
		}
		built, err := stored(b, arch)
		switch {
		case err != nil:
			return "", err
		case built:
			return build(b, arch)
		case arch == eif.AArch64 && component.Host() != eif.AArch64:
			return debianBlobs(b)
		}
		return "", fmt.Errorf("the kernel for %s is not in the store: run '%s' first", arch, command(arch))
	})
}

// Built returns [Blobs] with neb's own kernel, for tests of that kernel. In a quick run it skips the test
// where the store has no kernel for arch.
func Built(t testing.TB, arch string) string {
	t.Helper()
	if os.Getenv("NEB_BLOBS") == "" {
		b, err := builder()
		if err != nil {
			t.Fatal(err)
		}
		if built, err := stored(b, arch); err != nil {
			t.Fatal(err)
		} else if !built && arch != component.Host() {
			t.Skipf("the kernel for %s is not in the store: run '%s', or go test with -tags slow", arch,
				command(arch))
		}
	}
	return Blobs(t, arch)
}

// Series returns a directory with blobs that [Blobs] would return, with a kernel of another series of the
// lock.
func Series(t testing.TB, arch, series string) string {
	t.Helper()
	b, err := builder()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := build(&component.Builder{Store: b.Store, Lock: b.Lock, Series: series}, arch)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command is how to build the kernel for arch.
func command(arch string) string { return "go run ./cmd/neb build --arch " + arch }

// stored reports whether neb's own kernel for arch is to be used: it is in the store, or may be compiled.
func stored(b *component.Builder, arch string) (bool, error) {
	if slow {
		return true, nil
	}
	return b.Stored(context.Background(), arch, "kernel")
}

func build(b *component.Builder, arch string) (string, error) {
	outputs, err := b.Build(context.Background(), arch, component.Names...)
	if err != nil {
		return "", err
	}
	// The directory is removed with the store: there is no hook after all tests.
	dir, err := b.Store.Work(context.Background())
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "result")
	return filepath.Join(dir, arch), output.Write(dir, []output.Set{{Arch: arch, Outputs: outputs}})
}

// Program compiles the Go program of a package for the architecture target, static, and returns its path.
func Program(t testing.TB, target, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch.Go(target))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// Image is [WriteImage] with the blobs of [Blobs], and returns the file's path.
func Image(t testing.TB, arch string, files map[string][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.eif")
	if err := WriteImage(path, Blobs(t, arch), arch, files); err != nil {
		t.Fatal(err)
	}
	return path
}

// WriteImage writes an EIF with the kernel and command line in the directory blobs, and one ramdisk: an empty
// /dev, the given files by their names without a leading slash, all executable, and the [Modules] of the
// kernel as /1-NAME.ko and so on.
func WriteImage(path, blobs, arch string, files map[string][]byte) error {
	modules, err := Modules(blobs)
	if err != nil {
		return err
	}
	if len(modules) > 0 {
		files = maps.Clone(files)
	}
	for _, m := range modules {
		if files[filepath.Base(m)], err = os.ReadFile(m); err != nil {
			return err
		}
	}
	image := map[string]string{eif.X86_64: "bzImage", eif.AArch64: "Image"}[arch]
	kernel, err := os.ReadFile(filepath.Join(blobs, image))
	if err != nil {
		return err
	}
	cmdline, err := os.ReadFile(filepath.Join(blobs, "cmdline"))
	if err != nil {
		return err
	}
	var ramdisk bytes.Buffer
	c := initramfs.NewWriter(&ramdisk)
	err = c.WriteHeader(&initramfs.Header{Name: "dev", Mode: initramfs.TypeDir | 0o755})
	for name, b := range files {
		h := &initramfs.Header{Name: name, Mode: initramfs.TypeFile | 0o755, Size: int64(len(b))}
		err = errors.Join(err, c.WriteHeader(h))
		_, e := c.Write(b)
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, c.Close()); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := eif.NewWriter(f, arch)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		kind    eif.SectionType
		content []byte
	}{
		{eif.Kernel, kernel},
		{eif.Cmdline, bytes.TrimRight(cmdline, "\n")},
		{eif.Meta, []byte("{}")},
		{eif.Ramdisk, ramdisk.Bytes()},
	} {
		if err := w.Next(s.kind); err != nil {
			return err
		}
		if _, err := w.Write(s.content); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Close())
}

// A VM is a machine whose console is kept.
type VM struct {
	*machine.Machine
	t       testing.TB
	mu      sync.Mutex
	console bytes.Buffer
}

// Write takes the console.
func (v *VM) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.console.Write(p)
}

// Console is what the enclave has written so far.
func (v *VM) Console() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.console.String()
}

// Start boots cfg with [Emulator]. The machine is stopped at the end of the test, and its console shown if
// the test failed.
func Start(t testing.TB, cfg machine.Config) *VM {
	t.Helper()
	v := &VM{t: t}
	cfg.Emulator, cfg.Console = Emulator(t), v
	m, err := machine.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	v.Machine = m
	t.Cleanup(func() {
		m.Stop()
		if t.Failed() {
			t.Logf("console:\n%s", v.Console())
		}
	})
	return v
}

// WaitBeat waits for the enclave's heartbeat.
func (v *VM) WaitBeat() {
	v.t.Helper()
	select {
	case <-v.Beat():
	case <-v.Done():
		v.t.Fatalf("the enclave ended before its heartbeat: %v", v.Wait())
	case <-time.After(Patience):
		v.t.Fatal("no heartbeat")
	}
}

// WaitEnd waits for the end of the enclave.
func (v *VM) WaitEnd() {
	v.t.Helper()
	select {
	case <-v.Done():
		if err := v.Wait(); err != nil {
			v.t.Fatal(err)
		}
	case <-time.After(Patience):
		v.t.Fatal("the enclave does not end")
	}
}

// Says waits until the console matches pattern, and returns its first group, or all that matched.
func (v *VM) Says(pattern string) string {
	v.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if m := re.FindStringSubmatch(v.Console()); m != nil {
			return m[len(m)-1]
		}
	}
	v.t.Fatalf("nothing like %q on the console", pattern)
	return ""
}
