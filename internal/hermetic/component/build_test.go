package component

import (
	"bytes"
	"context"
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
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/confine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// The tests in this file use the toolchain of neb.lock. They take it from the store of the user who runs
// them, which fetches what it does not have.

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
	return &Builder{Store: s, Lock: l, Source: t.Source, KernelSource: t.KernelSource, Jobs: t.Jobs,
		Offline:   t.Offline,
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
	if err := tree.Copy(t.Context(), "testdata/kernel", dir, false); err != nil {
		t.Fatal(err)
	}
	files := map[string][]string{}
	for _, p := range kernel.Patches() {
		before(files, p.Text)
	}
	for name, lines := range files {
		if err := tree.WriteFile(filepath.Join(dir, name), 0o644,
			strings.NewReader(strings.Join(lines, "\n")+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// neb's own source tree.
func sourceOf(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
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

// ownStore makes a store that has the downloads of the one that this machine's neb uses, and the outputs
// whose keys begin as given. It belongs to uid.
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
	if err := errors.Join(os.Chmod(dir, 0o755),
		tree.Copy(t.Context(), from, filepath.Join(dir, "tree"), false)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "tree")
}

const ordinary = 54321

// sharedBuilder is a builder on the user's own store, with the tiny kernel.
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
	if lines := strings.Split(string(config), "\n"); err != nil ||
		lines[2] != "# Linux/x86_64 6.12.0 Kernel Configuration" {
		t.Errorf("bzImage.config: %q, %v", lines[:4], err)
	}
	stamp, err := exec.Command(filepath.Join(dir, "bzImage")).Output()
	if err != nil {
		// The program is for Debian's linker; its strings say the same.
		stamp, err = os.ReadFile(filepath.Join(dir, "bzImage"))
	}
	for _, expected := range []string{"main.c Jan  1 1970 00:00:00", "@0 neb neb 0022", "ARCH=x86_64",
		"CROSS_COMPILE=x86_64-linux-gnu-", "HOME=/build", "LC_ALL=C", "TZ=UTC"} {
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
	if kinds["kernel source"] != 1 || kinds["patch"] != len(kernel.Patches()) ||
		kinds["config fragment"] != len(kernel.Fragments("x86_64")) || kinds["package"] < 50 ||
		kinds["recipe"] < 3 {
		t.Errorf("inputs: %v", kinds)
	}
}

func TestFragmentsThatAreRefused(t *testing.T) {
	b := sharedBuilder(t)
	for text, expected := range map[string]string{
		"CONFIG_VHOST_VSOCK=y\n": "f.config:1: CONFIG_VHOST_VSOCK",
		"CONFIG_X y\n":           "f.config:1",
	} {
		b.Fragments = []kernel.Fragment{{Name: "f.config", Text: text}}
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err == nil ||
			!strings.Contains(err.Error(), expected) {
			t.Errorf("%q: found %v, expected %q", text, err, expected)
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
	if text, err := os.ReadFile(filepath.Join(work, "out", "tree", "hello")); err != nil ||
		string(text) != "hello" {
		t.Errorf("found %q, %v", text, err)
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
