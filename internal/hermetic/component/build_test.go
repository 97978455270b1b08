package component

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/confine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// The tests in this file use the toolchain of neb.lock. They take it from the store of whoever runs them, which
// fetches what it does not have.

// task is what a child process of a test is to build.
type task struct {
	Store string
	Jail  bool // where neither mounts nor namespaces are allowed
	Arch  string
	Names []string

	Source, KernelSource string
	Jobs                 int
	Offline              bool
	Fragments            []kernel.Fragment
	Patches              []kernel.Patch
}

// outcome is how it went.
type outcome struct {
	Records []Record
	Error   string
}

// files are the hashes of what was built.
func (o outcome) files() map[string]string {
	sums := map[string]string{}
	for _, r := range o.Records {
		for _, f := range r.Files {
			sums[f.Name] = f.SHA256
		}
	}
	return sums
}

func (t task) run() (o outcome) {
	if t.Jail {
		if err := confine.NoNamespaces(); err != nil {
			return outcome{Error: err.Error()}
		}
		t.Jail = false
		// The filter is on this thread only: what is executed has it in all.
		text, err := json.Marshal(t)
		if err == nil {
			err = os.Setenv(taskEnv, string(text))
		}
		if err == nil {
			err = syscall.Exec("/proc/self/exe", []string{"test"}, os.Environ())
		}
		return outcome{Error: err.Error()}
	}
	b, err := t.builder()
	if err == nil {
		defer b.Store.Close()
		var outputs []Output
		outputs, err = b.Build(context.Background(), t.Arch, t.Names...)
		for _, out := range outputs {
			o.Records = append(o.Records, out.Record)
		}
	}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}

func (t task) builder() (*Builder, error) {
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return nil, err
	}
	s, err := store.Open(t.Store)
	if err != nil {
		return nil, err
	}
	return &Builder{Store: s, Lock: l, Source: t.Source, KernelSource: t.KernelSource, Jobs: t.Jobs, Offline: t.Offline,
		Fragments: t.Fragments, Patches: t.Patches}, nil
}

const taskEnv = "NEB_TEST_TASK"

// child runs a task in a process of its own, that cmd may change.
func (t task) child(tb testing.TB, change func(*exec.Cmd)) outcome {
	tb.Helper()
	text, err := json.Marshal(t)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), taskEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	if change != nil {
		change(cmd)
	}
	out, err := cmd.Output()
	if err != nil {
		tb.Fatal(err)
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return o
}

// tinyKernel is testdata/kernel, which compiles in no time, with just as much of the files that neb's patches
// change as these want to see.
func tinyKernel(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "linux")
	if err := copyTree(t.Context(), "testdata/kernel", dir); err != nil {
		t.Fatal(err)
	}
	files := map[string][]string{}
	for _, p := range kernel.Patches() {
		before(files, p.Text)
	}
	for name, lines := range files {
		if err := writeInto(filepath.Join(dir, name), strings.NewReader(strings.Join(lines, "\n")+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// neb's own source tree.
func sourceOf(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustLock(t testing.TB) *lock.Lock {
	t.Helper()
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ownStore makes a store that has the downloads of the one that this machine's neb uses, and the outputs whose keys
// begin as given. It belongs to uid.
func ownStore(t testing.TB, uid int, with ...string) string {
	t.Helper()
	shared, err := store.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	l := mustLock(t)
	b := &Builder{Store: shared, Lock: l}
	tools, err := b.toolchain(lock.Base, lock.GCCx86_64)
	if err != nil {
		t.Fatal(err)
	}
	files := append(tools.packages, l.Go.Hosts[runtime.GOARCH])
	require.Fetch(t, b.Fetch(t.Context(), files))
	if slices.Contains(with, "go-") {
		if _, err := b.goRoot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	// Not t.TempDir, which an ordinary user does not get to.
	dir, err := os.MkdirTemp("/var/tmp", "neb-test-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "store")
	own, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	for _, f := range files {
		copyTo(t, shared.Path(f), filepath.Join(dir, "downloads", f.SHA256))
	}
	for _, prefix := range with {
		outputs, err := filepath.Glob(filepath.Join(shared.Dir(), "outputs", prefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range outputs {
			copyTo(t, from, filepath.Join(dir, "outputs", filepath.Base(from)))
		}
	}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyTo copies a file or a tree.
func copyTo(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// readable is a copy of a directory that an ordinary user gets to.
func readable(t testing.TB, from string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "neb-test-source-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), copyTree(t.Context(), from, filepath.Join(dir, "tree"))); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "tree")
}

const ordinary = 54321

// The same source and lock make the same bytes as root, as an ordinary user and in a container without rights,
// with another number of jobs, umask, time zone, directory and environment.
func TestSameBytesEverywhere(t *testing.T) {
	require.Root(t)
	kernelSource, source := readable(t, tinyKernel(t)), readable(t, sourceOf(t))
	base := task{Arch: "x86_64", Names: []string{"kernel"}, KernelSource: kernelSource, Source: source}
	var first outcome
	for _, c := range []struct {
		name   string
		mode   sandbox.Mode
		uid    int
		change func(*task, *exec.Cmd)
	}{
		{"root", sandbox.Namespaces, 0, func(*task, *exec.Cmd) {}},
		{"user", sandbox.UserNamespaces, ordinary, func(t *task, cmd *exec.Cmd) {
			t.Jobs = 3
			cmd.Dir = "/"
			cmd.Env = append(cmd.Env, "TZ=Asia/Kathmandu", "LC_ALL=de_DE.UTF-8", "HOME=/", "KCFLAGS=-O3", "CC=false", "GOFLAGS=-tags=x", "MAKEFLAGS=-i")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
		}},
		{"container", sandbox.Chroot, 0, func(t *task, cmd *exec.Cmd) { t.Jail = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := base
			k.Store = ownStore(t, c.uid)
			var prepared exec.Cmd
			c.change(&k, &prepared)
			if c.uid != 0 {
				old := syscall.Umask(0o077)
				defer syscall.Umask(old)
			}
			o := k.child(t, func(cmd *exec.Cmd) {
				cmd.Dir, cmd.SysProcAttr = prepared.Dir, prepared.SysProcAttr
				cmd.Env = append(cmd.Env, prepared.Env...)
			})
			if o.Error != "" {
				t.Fatal(o.Error)
			}
			for _, r := range o.Records {
				if r.Isolation != c.mode {
					t.Errorf("%s: isolation %q, expected %q", r.Component, r.Isolation, c.mode)
				}
			}
			if len(first.Records) == 0 {
				first = o
			}
			got, want := o.files(), first.files()
			if len(got) != 4 {
				t.Errorf("found %v", got)
			}
			for name, sum := range want {
				if got[name] != sum {
					t.Errorf("%s: %s, expected %s", name, got[name], sum)
				}
			}
		})
	}
}

// sharedBuilder is a builder on the store of whoever runs the tests, with the tiny kernel.
func sharedBuilder(t testing.TB) *Builder {
	t.Helper()
	return fetched(t, task{Source: sourceOf(t), KernelSource: tinyKernel(t)})
}

// fetched is the builder of k, with what a kernel for x86_64 needs in its store.
func fetched(t testing.TB, k task) *Builder {
	t.Helper()
	require.Sandbox(t)
	b, err := k.builder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Store.Close() })
	tools, err := b.toolchain(lock.Base, lock.GCCx86_64)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), append(tools.packages, b.Lock.Kernel)))
	return b
}

func TestKernelOutput(t *testing.T) {
	b := sharedBuilder(t)
	outputs, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	dir := outputs[0].Dir
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || string(cmdline) != kernel.Cmdline("x86_64")+"\n" {
		t.Errorf("cmdline: %q, %v", cmdline, err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "bzImage.config"))
	if lines := strings.Split(string(config), "\n"); err != nil || lines[2] != "# Linux/x86_64 6.12.0 Kernel Configuration" {
		t.Errorf("bzImage.config: %q, %v", lines[:4], err)
	}
	stamp, err := exec.Command(filepath.Join(dir, "bzImage")).Output()
	if err != nil {
		// The program is for Debian's linker; its strings say the same.
		stamp, err = os.ReadFile(filepath.Join(dir, "bzImage"))
	}
	for _, expected := range []string{"main.c Jan  1 1970 00:00:00", "@0 neb neb 0022", "ARCH=x86_64", "CROSS_COMPILE=x86_64-linux-gnu-", "HOME=/build", "LC_ALL=C", "TZ=UTC"} {
		if !bytes.Contains(stamp, []byte(expected)) {
			t.Errorf("expected %q in what was compiled: %v", expected, err)
		}
	}
	module, err := os.ReadFile(filepath.Join(dir, "nsm.ko"))
	if err != nil || bytes.Contains(module, []byte(".debug_info")) {
		t.Errorf("nsm.ko has not been stripped, or is not there: %v", err)
	}
	kinds := map[string]int{}
	for _, in := range outputs[0].Inputs {
		kinds[in.Kind]++
		if len(in.SHA256) != 64 {
			t.Errorf("input without a hash: %+v", in)
		}
	}
	if kinds["kernel source"] != 1 || kinds["patch"] != len(kernel.Patches()) || kinds["config fragment"] != len(kernel.Fragments("x86_64")) || kinds["package"] < 50 || kinds["recipe"] < 3 {
		t.Errorf("inputs: %v", kinds)
	}
}

// The cross compiler makes the aarch64 kernel, and the field that its loader reads is written.
func TestAarch64Kernel(t *testing.T) {
	b := sharedBuilder(t)
	tools, err := b.toolchain(lock.Base, lock.GCCaarch64)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), tools.packages))
	outputs, err := b.Build(t.Context(), "aarch64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "Image"))
	if err != nil || len(image) != 64 {
		t.Fatalf("Image: %d bytes, %v", len(image), err)
	}
	if offset := binary.LittleEndian.Uint64(image[8:]); offset != kernel.TextOffset {
		t.Errorf("text_offset is %#x", offset)
	}
	module, err := elf.Open(filepath.Join(outputs[0].Dir, "nsm.ko"))
	if err != nil || module.Machine != elf.EM_AARCH64 {
		t.Errorf("nsm.ko: %+v, %v", module, err)
	}
	var names []string
	for _, f := range outputs[0].Files {
		names = append(names, f.Name)
	}
	if want := []string{"Image", "Image.config", "cmdline", "nsm.ko"}; !slices.Equal(names, want) {
		t.Errorf("found %v", names)
	}
}

// The tiny kernel obeys neither of these, as Kconfig would not.
func TestOptionsThatDoNotSurvive(t *testing.T) {
	b := sharedBuilder(t)
	b.Fragments = []kernel.Fragment{{Name: "mine.config", Text: "CONFIG_FINE=y\nCONFIG_UNHEARD_OF=y\n\nCONFIG_OVERRIDDEN=y\n"}}
	_, err := b.Build(t.Context(), "x86_64", "kernel")
	if err == nil || !strings.Contains(err.Error(), "mine.config:2: CONFIG_UNHEARD_OF") || !strings.Contains(err.Error(), "mine.config:4: CONFIG_OVERRIDDEN") || strings.Contains(err.Error(), "FINE") {
		t.Errorf("found %v", err)
	}
	if b.Fragments[0].Text = "CONFIG_FINE=y\n"; err != nil {
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err != nil {
			t.Errorf("a fragment that survives: %v", err)
		}
	}
}

func TestFragmentsThatAreRefused(t *testing.T) {
	b := sharedBuilder(t)
	for text, expected := range map[string]string{
		"CONFIG_VHOST_VSOCK=y\n": "f.config:1: CONFIG_VHOST_VSOCK",
		"CONFIG_X y\n":           "f.config:1",
	} {
		b.Fragments = []kernel.Fragment{{Name: "f.config", Text: text}}
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%q: found %v, expected %q", text, err, expected)
		}
	}
}

const goodPatch = `--- a/main.c
+++ b/main.c
@@ -3,6 +3,6 @@
 int main(void)
 {
 	/* All that could differ from one build to the next. */
-	puts(__FILE__ " " __DATE__ " " __TIME__ " " __VERSION__ " " STAMP);
+	puts("patched");
 	return 0;
 }
`

func TestPatches(t *testing.T) {
	b := sharedBuilder(t)
	b.Patches = []kernel.Patch{{Name: "good.patch", Text: goodPatch}}
	outputs, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	if image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "bzImage")); err != nil || !bytes.Contains(image, []byte("patched")) {
		t.Errorf("the patch is not in the image: %v", err)
	}
	// One file with two commits, the second of which goes on where the first was.
	again := strings.NewReplacer(`-	puts(__FILE__ " " __DATE__ " " __TIME__ " " __VERSION__ " " STAMP);`, `-	puts("patched");`, `+	puts("patched");`, `+	puts("patched twice");`)
	b.Patches = []kernel.Patch{{Name: "series.patch", Text: goodPatch + again.Replace(goodPatch)}}
	if outputs, err = b.Build(t.Context(), "x86_64", "kernel"); err != nil {
		t.Fatal(err)
	}
	if image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "bzImage")); err != nil || !bytes.Contains(image, []byte("patched twice")) {
		t.Errorf("the series is not in the image: %v", err)
	}
	dir := outputs[0].Dir
	b.Patches[0].Name = "/home/me/series.patch"
	if outputs, err = b.Build(t.Context(), "x86_64", "kernel"); err != nil || outputs[0].Dir != dir {
		t.Errorf("the same patch at another place gives another output: %v", err)
	}
	for _, c := range []struct{ name, text, expected string }{
		{"hunk.patch", strings.ReplaceAll(goodPatch, "All that", "Everything that"), "main.c: Hunk #1 FAILED at 3"},
		{"fuzz.patch", strings.ReplaceAll(goodPatch, "int main(void)", "int main(int argc)"), "main.c: Hunk #1 FAILED at 3"},
		{"file.patch", strings.ReplaceAll(goodPatch, "main.c", "other.c"), "can't find file to patch"},
		{"garbage.patch", "hello\n", "Only garbage was found"},
	} {
		b.Patches = []kernel.Patch{{Name: "good.patch", Text: goodPatch}, {Name: c.name, Text: c.text}}
		_, err := b.Build(t.Context(), "x86_64", "kernel")
		if err == nil || !strings.Contains(err.Error(), "patch "+c.name+" does not apply") || !strings.Contains(err.Error(), c.expected) {
			t.Errorf("%s: expected %q, found %v", c.name, c.expected, err)
		}
	}
}

// A link to a source is that source.
func TestLinkedSource(t *testing.T) {
	b := sharedBuilder(t)
	tree := b.KernelSource
	b.KernelSource = filepath.Join(t.TempDir(), "linux")
	if err := os.Symlink(tree, b.KernelSource); err != nil {
		t.Fatal(err)
	}
	outputs, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile(filepath.Join(tree, "main.c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "main.c"), append(main, "/* more */\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil || again[0].Dir == outputs[0].Dir {
		t.Errorf("a change of the source behind the link makes no difference: %v", err)
	}
}

func TestCompilerErrorIsShown(t *testing.T) {
	b := sharedBuilder(t)
	if err := os.WriteFile(filepath.Join(b.KernelSource, "main.c"), []byte("int main(void) { return wrong; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.Build(t.Context(), "x86_64", "kernel")
	if err == nil {
		t.Fatal("expected an error")
	}
	for _, expected := range []string{"kernel x86_64: compiling: ", "exit status 2", "/logs/kernel-x86_64-", "main.c:1:25: error: 'wrong' undeclared"} {
		if !strings.Contains(err.Error(), expected) {
			t.Errorf("expected %q in %v", expected, err)
		}
	}
}

// The tools for a compressed root need nothing but what they are linked with.
func TestErofsSetAlone(t *testing.T) {
	require.Sandbox(t)
	b, err := task{}.builder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Store.Close() })
	tools, err := b.toolchain(lock.EROFS)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), tools.packages))
	work, err := b.Store.Work(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := place(work, "src", map[string]string{"tree/hello": "hello"}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"/usr/bin/mkfs.erofs", "-zzstd,level=3", "/out/image", "/src/tree"},
		{"/usr/bin/fsck.erofs", "--extract=/out/tree", "/out/image"},
	} {
		if err := b.Tool(t.Context(), []string{lock.EROFS}, work, args...); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(work, "out", "tree", "hello")); err != nil || string(text) != "hello" {
		t.Errorf("found %q, %v", text, err)
	}
}

// A tarball is as good as a directory.
func TestKernelTarball(t *testing.T) {
	b := sharedBuilder(t)
	source := tinyKernel(t)
	tarball := filepath.Join(t.TempDir(), "linux.tar.gz")
	if out, err := exec.Command("tar", "-czf", tarball, "-C", filepath.Dir(source), "--transform=s,^[^/]*,linux-6.12,", filepath.Base(source)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sums := map[string]string{}
	for _, b.KernelSource = range []string{source, tarball} {
		outputs, err := b.Build(t.Context(), "x86_64", "kernel")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range outputs[0].Files {
			if before := sums[f.Name]; before != "" && before != f.SHA256 {
				t.Errorf("%s: %s from the tarball, %s from the directory", f.Name, f.SHA256, before)
			}
			sums[f.Name] = f.SHA256
		}
	}
	for source, expected := range map[string]string{
		filepath.Join(t.TempDir(), "nothing"): "no such file",
		t.TempDir():                           "no file Kconfig",
	} {
		b.KernelSource = source
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%s: found %v", source, err)
		}
	}
}

// before adds to files the lines that a patch takes away and those around them, where it expects them.
func before(files map[string][]string, patch string) {
	name, at := "", 0
	for line := range strings.Lines(patch) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "--- a/"):
			name, at = line[len("--- a/"):], 0
		case strings.HasPrefix(line, "@@ "):
			fmt.Sscanf(line, "@@ -%d", &at)
		case at > 0 && line != "" && (line[0] == ' ' || line[0] == '-'):
			for len(files[name]) < at {
				files[name] = append(files[name], "")
			}
			files[name][at-1] = line[1:]
			at++
		}
	}
}
