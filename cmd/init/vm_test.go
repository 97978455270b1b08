//go:build linux && amd64

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// entry is a file, directory or link of a ramdisk.
type entry struct {
	name     string // from the root of the ramdisk, without a leading slash
	mode     uint32 // with its type; permissions alone make a file
	body     []byte // or where a link leads to
	uid, gid uint32
}

func dir(name string) entry { return entry{name: name, mode: initramfs.TypeDir | 0o755} }

func link(name, to string) entry {
	return entry{name: name, mode: initramfs.TypeSymlink | 0o777, body: []byte(to)}
}

func text(name, body string) entry { return entry{name: name, mode: 0o644, body: []byte(body)} }

func program(name string, body []byte) entry { return entry{name: name, mode: 0o755, body: body} }

// ramdisk writes entries in order, with the directories above them where they are missing.
func ramdisk(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := initramfs.NewWriter(&b)
	have := map[string]bool{}
	write := func(e entry) {
		if e.mode&initramfs.TypeMask == 0 {
			e.mode |= initramfs.TypeFile
		}
		h := &initramfs.Header{Name: e.name, Mode: e.mode, UID: e.uid, GID: e.gid, Size: int64(len(e.body))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
		have[e.name] = true
	}
	for _, e := range entries {
		for i, c := range e.name {
			if c == '/' && !have[e.name[:i]] {
				write(dir(e.name[:i]))
			}
		}
		if !have[e.name] {
			write(e)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// once builds a file for all tests of the run.
type once struct {
	sync.Once
	content []byte
	err     error
}

var built struct{ init, probe map[string]*once }

func init() {
	built.init = map[string]*once{eif.X86_64: {}, eif.AArch64: {}}
	built.probe = map[string]*once{eif.X86_64: {}, eif.AArch64: {}}
}

// goArch is Go's name of an architecture.
var goArch = map[string]string{eif.X86_64: "amd64", eif.AArch64: "arm64"}

func (o *once) build(t testing.TB, arch string, args ...string) []byte {
	t.Helper()
	o.Do(func() {
		var dir string
		if dir, o.err = os.MkdirTemp("", "neb-init-test-"); o.err != nil {
			return
		}
		defer os.RemoveAll(dir)
		out := filepath.Join(dir, "out")
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out},
			args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH="+goArch[arch])
		var words []byte
		if words, o.err = cmd.CombinedOutput(); o.err != nil {
			t.Log(string(words))
			return
		}
		o.content, o.err = os.ReadFile(out)
	})
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.content
}

// initProgram is init, linked as it is shipped.
func initProgram(t testing.TB, arch string) []byte {
	return built.init[arch].build(t, arch, "-ldflags=-s -w -buildid="+contract.Note+" -B none -E nebstart",
		".")
}

// probeProgram is testdata/probe.
func probeProgram(t testing.TB, arch string) []byte {
	return built.probe[arch].build(t, arch, "-ldflags=-s -w", "./testdata/probe")
}

// scene is one start of a machine, and what must be seen.
type scene struct {
	arch    string                          // "" is x86_64
	first   []entry                         // more of the first ramdisk, also in place of init, nsm.ko or dev
	without []string                        // entries of the first ramdisk that are left out
	second  []entry                         // the application's ramdisk
	raw     func(testing.TB, []byte) []byte // changes the bytes of the second ramdisk
	cmdline string                          // appended to the image's own, measured
	late    string                          // appended after all other words, not measured
	memory  int64                           // in bytes; 0 is the machine's default
	cpus    int
	parent  map[uint32]vsock.Handler
	qemu    []string                           // further arguments
	accel   string                             // see machine.Config
	during  func(testing.TB, *machine.Machine) // runs beside it, from power-on
	// regular expressions that lines of the console match, in this order
	want    []string
	never   []string // ones that no line matches
	console string   // another console than the image's, measured
	linger  bool     // two seconds of neb.linger
	panics  bool     // the kernel panics at the end
	runs    bool     // the machine goes on after the last wanted line, and is stopped
	beats   bool     // the heartbeat was sent and answered
	slow    bool     // only with -tags slow
}

// run boots a scene and returns the console's lines.
func (s *scene) run(t testing.TB) []string {
	t.Helper()
	if s.arch == "" {
		s.arch = eif.X86_64
	}
	emulator, blobs := vm.Emulator(t), vm.Blobs(t, s.arch)
	path := s.write(t, blobs)

	ctx, cancel := context.WithTimeout(t.Context(), vm.Patience)
	defer cancel()
	var mu sync.Mutex
	var lines []string
	var times []time.Duration
	left := slices.Clone(s.want)
	seen := make(chan struct{})
	linger := "reboot=t neb.linger=0s"
	if s.linger {
		linger = "reboot=t neb.linger=2s" // the machine adds a shorter one to the image's own
	}
	cfg := machine.Config{
		Emulator: emulator, EIF: path, Memory: s.memory, CPUs: s.cpus, Args: s.qemu, Accel: s.accel,
		Cmdline: linger + " " + s.late,
		Vsock:   vsock.Config{Handlers: s.parent},
		Event: func(e machine.Event) {
			if e.Kind != machine.Line {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			lines, times = append(lines, e.Text), append(times, e.Since)
			if len(left) > 0 && regexp.MustCompile(left[0]).MatchString(e.Text) {
				if left = left[1:]; len(left) == 0 {
					close(seen)
				}
			}
		},
	}
	m, err := machine.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.during != nil {
		s.during(t, m)
	}
	if s.runs {
		select {
		case <-seen:
		case <-m.Done():
		}
		m.Stop()
	}
	err = m.Wait()
	mu.Lock()
	defer mu.Unlock()
	select {
	case <-m.Beat():
	default:
		if s.beats {
			t.Error("no heartbeat")
		}
	}
	if ctx.Err() != nil {
		t.Errorf("not over after %v", vm.Patience)
	} else if err != nil && !s.runs {
		t.Errorf("the machine did not end by itself: %v", err)
	}
	for _, l := range left {
		t.Errorf("no line matches %q, or not in this order", l)
	}
	never := append(s.never, `panic:`, `goroutine `)
	if !s.panics {
		never = append(never, `Kernel panic`, `Call Trace`)
	}
	for _, n := range never {
		for _, l := range lines {
			if regexp.MustCompile(n).MatchString(l) {
				t.Errorf("unwanted line: %s", l)
			}
		}
	}
	if t.Failed() {
		for i, l := range lines {
			t.Logf("%7.3f %s", times[i].Seconds(), l)
		}
	}
	return lines
}

// kernelName is the kernel among the blobs.
var kernelName = map[string]string{eif.X86_64: "bzImage", eif.AArch64: "Image"}

// write makes the EIF.
func (s *scene) write(t testing.TB, blobs string) string {
	t.Helper()
	blob := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(blobs, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := []entry{dir("dev"), program("init", initProgram(t, s.arch)), program("nsm.ko", blob("nsm.ko"))}
	first = append(first, furtherModules(t, blobs)...)
	first = slices.DeleteFunc(append(slices.Clone(s.first), first...),
		func(e entry) bool { return slices.Contains(s.without, e.name) })
	second := ramdisk(t, s.second)
	if s.raw != nil {
		second = s.raw(t, second)
	}
	cmdline := strings.TrimSpace(string(blob("cmdline")))
	if s.console != "" {
		cmdline = strings.ReplaceAll(cmdline, "console=ttyS0", "console="+s.console)
	}
	if s.cmdline != "" {
		cmdline += " " + s.cmdline
	}
	path := filepath.Join(t.TempDir(), "test.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := eif.NewWriter(f, s.arch)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := eif.Metadata{ImageName: "test", ImageVersion: "1", DockerInfo: []byte("null"),
		CustomMetadata: []byte("null")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []struct {
		kind    eif.SectionType
		content []byte
	}{{eif.Kernel, blob(kernelName[s.arch])}, {eif.Cmdline, []byte(cmdline)}, {eif.Meta, metadata},
		{eif.Ramdisk, ramdisk(t, first)}, {eif.Ramdisk, second}} {
		if err := w.Next(section.kind); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(section.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// furtherModules are the modules that a kernel needs besides nsm.ko, and the list of them: see [vm.Modules].
func furtherModules(t testing.TB, blobs string) []entry {
	t.Helper()
	files, err := vm.Modules(blobs)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		return nil
	}
	list := contract.Modules{}
	var all []entry
	for _, name := range files {
		at := "neb/" + filepath.Base(name)
		list.Paths = append(list.Paths, "/"+at)
		all = append(all, file(t, at, name))
	}
	body, err := contract.EncodeModules(list)
	if err != nil {
		t.Fatal(err)
	}
	return append(all, text("neb/modules", string(body)))
}

// described is the second ramdisk of neb eif build: a description, a tree, and the entry that says that it is
// whole.
func described(t testing.TB, d contract.Description, tree ...entry) []entry {
	t.Helper()
	b, err := contract.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	all := []entry{{name: "neb/app", mode: 0o644, body: b}, dir("rootfs")}
	for _, e := range tree {
		e.name = "rootfs/" + e.name
		all = append(all, e)
	}
	return append(all, text("neb/complete", contract.Complete))
}

// plain is the second ramdisk of nitro-cli.
func plain(cmd, env string, tree ...entry) []entry {
	var all []entry
	for _, name := range []string{"rootfs", "rootfs/dev", "rootfs/run", "rootfs/sys", "rootfs/var",
		"rootfs/proc", "rootfs/tmp"} {
		all = append(all, dir(name))
	}
	for _, e := range tree {
		e.name = "rootfs/" + e.name
		all = append(all, e)
	}
	return append(all, text("cmd", cmd), text("env", env))
}
