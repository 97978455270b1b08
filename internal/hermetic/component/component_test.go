package component

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// As a child of a test this binary builds.
func TestMain(m *testing.M) {
	if text := os.Getenv(taskEnv); text != "" {
		var t task
		err := json.Unmarshal([]byte(text), &t)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(t.run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("NEB_TEST_BUILD_IN"); dir != "" {
		b, err := fakeBuilder(dir)
		if err == nil {
			_, err = b.recipe(context.Background(), "thing", fakeRecipe(os.Getenv("NEB_TEST_SCRIPT")))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if shell.path != "" {
		os.RemoveAll(filepath.Dir(shell.path))
	}
	os.Exit(code)
}

var shell struct {
	sync.Once
	path string
	err  error
}

// fakeShell is testdata/sh, compiled.
func fakeShell() (string, error) {
	if path := os.Getenv("NEB_TEST_SHELL"); path != "" {
		return path, nil
	}
	shell.Do(func() {
		dir, err := os.MkdirTemp("", "neb-sh-")
		shell.path, shell.err = filepath.Join(dir, "sh"), err
		if err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", shell.path, "./testdata/sh")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			shell.err = fmt.Errorf("building the stand-in for sh: %w: %s", err, out)
		}
	})
	return shell.path, shell.err
}

// fakeBuilder is a builder with a store in dir, whose lock has one package (the stand-in for a toolchain) and
// one source.
func fakeBuilder(dir string) (*Builder, error) {
	s, err := store.Open(dir)
	if err != nil {
		return nil, err
	}
	sh, err := fakeShell()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(sh)
	if err != nil {
		return nil, err
	}
	var tree, deb bytes.Buffer
	w := tar.NewWriter(&tree)
	if err := w.WriteHeader(&tar.Header{Name: "bin/sh", Typeflag: tar.TypeReg, Mode: 0o755,
		Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	fmt.Fprintf(&deb, "!<arch>\n%-16s%-12d%-6d%-6d%-8o%-10d`\n", "data.tar", 0, 0, 0, 0o100644, tree.Len())
	deb.Write(tree.Bytes())

	l := &lock.Lock{}
	l.Packages = []lock.Package{{
		File: download(s, "dash", deb.Bytes()),
		Sets: map[string][]string{runtime.GOARCH: {lock.Base}},
	}}
	l.Kernel = download(s, "source", []byte("the source"))
	return &Builder{Store: s, Lock: l}, nil
}

// download puts a file into the store as if it had been fetched.
func download(s *store.Store, name string, content []byte) lock.File {
	sum := sha256.Sum256(content)
	f := lock.File{Name: name, Version: "1", Path: "pool/" + name + ".bin", Size: int64(len(content)),
		SHA256: hex.EncodeToString(sum[:])}
	if _, err := os.Stat(s.Path(f)); err != nil {
		_ = os.WriteFile(s.Path(f), content, 0o644)
	}
	return f
}

func fakeRecipe(script string) recipe {
	return recipe{
		sets:    []string{lock.Base},
		sources: func(l *lock.Lock) []lock.File { return []lock.File{l.Kernel} },
		script:  script,
		title:   "compile thing",
		counts:  func(line string) bool { return strings.HasPrefix(line, "CC") },
		lines:   2,
	}
}

func newFake(t *testing.T) (*Builder, *[]progress.Event) {
	t.Helper()
	b, err := fakeBuilder(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Store.Close() })
	var mu sync.Mutex
	var events []progress.Event
	b.Progress = func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}
	return b, &events
}

func TestRecipe(t *testing.T) {
	require.Sandbox(t)
	b, events := newFake(t)
	b.Jobs = 3
	r := fakeRecipe("copy /src/source.bin /out/copied\nenv /out/env\necho CC one\necho other\necho CC " +
		"two\necho CC three\n")
	o, err := b.recipe(t.Context(), "thing", r)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(o.Dir, "copied")); err != nil || string(text) != "the source" {
		t.Errorf("found %q, %v", text, err)
	}
	if env, err := os.ReadFile(filepath.Join(o.Dir, "env")); err != nil ||
		!strings.Contains(string(env), "JOBS=3") {
		t.Errorf("found %q, %v", env, err)
	}
	entries, _ := os.ReadDir(o.Dir)
	if len(entries) != 3 { // and the record
		t.Errorf("found %v", entries)
	}
	if o.Isolation == "" || len(o.Inputs) != 3 || o.Inputs[0].SHA256 != b.Lock.Kernel.SHA256 {
		t.Errorf("record: %+v", o.Record)
	}
	last := (*events)[len(*events)-1]
	if want := (progress.Event{Stage: "compile thing", Done: 3, Total: 3, Unit: "objects"}); last != want {
		t.Errorf("last event: expected %+v, found %+v", want, last)
	}
	if logs, _ := os.ReadDir(filepath.Join(b.Store.Dir(), "logs")); len(logs) > 0 {
		t.Errorf("the log of a success was kept: %v", logs)
	}

	// A second time nothing is made, and -j does not matter.
	*events = nil
	b.Jobs = 1
	again, err := b.recipe(t.Context(), "thing", r)
	if err != nil || again.Dir != o.Dir || len(*events) > 0 {
		t.Errorf("the second time: %v, %v, %v", again.Dir, *events, err)
	}
	// Other inputs, another output.
	for what, change := range map[string]func(b *Builder, r *recipe){
		"script": func(_ *Builder, r *recipe) { r.script += "# more\n" },
		"source": func(b *Builder, _ *recipe) {
			b.Lock.Kernel = download(b.Store, "source", []byte("other"))
		},
		"toolchain": func(b *Builder, _ *recipe) { b.Lock.Packages[0].Version = "2" },
	} {
		c, d := *b.Lock, r
		c.Packages = slices.Clone(c.Packages)
		other := &Builder{Store: b.Store, Lock: &c}
		change(other, &d)
		if o2, err := other.recipe(t.Context(), "thing", d); err != nil || o2.Dir == o.Dir {
			t.Errorf("another %s: %s, %v", what, o2.Dir, err)
		}
	}
}

func TestDamagedOutputIsMadeAnew(t *testing.T) {
	require.Sandbox(t)
	b, events := newFake(t)
	r := fakeRecipe("copy /src/source.bin /out/copied\n")
	o, err := b.recipe(t.Context(), "thing", r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Dir, "copied")
	if err := os.WriteFile(path, []byte("THE SOURCE"), 0o644); err != nil {
		t.Fatal(err)
	}
	*events = nil
	if _, err := b.recipe(t.Context(), "thing", r); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "the source" || len(*events) == 0 {
		t.Errorf("found %q after %d events", text, len(*events))
	}
}

func TestFresh(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	r := fakeRecipe("copy /src/source.bin /out/copied\n")
	o, err := b.recipe(t.Context(), "thing", r)
	if err != nil {
		t.Fatal(err)
	}
	var events []progress.Event
	fresh := &Builder{Store: b.Store, Lock: b.Lock, Fresh: true, Progress: func(e progress.Event) {
		events = append(events, e)
	}}
	f, err := fresh.recipe(t.Context(), "thing", r)
	if err != nil || f.Dir == "" || len(events) == 0 || len(f.Inputs) != len(o.Inputs) {
		t.Errorf("found %+v after %d events, %v", f, len(events), err)
	}
	outputs, _ := os.ReadDir(filepath.Join(b.Store.Dir(), "outputs"))
	if len(outputs) != 2 { // the root and the thing
		t.Errorf("kept: %v", outputs)
	}
}

func TestFailureShowsTheLog(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	var script strings.Builder
	for i := range 30 {
		fmt.Fprintf(&script, "echo line %d\n", i)
	}
	script.WriteString("wrong word\n")
	_, err := b.recipe(t.Context(), "thing", fakeRecipe(script.String()))
	if err == nil {
		t.Fatal("expected an error")
	}
	logs, _ := filepath.Glob(filepath.Join(b.Store.Dir(), "logs", "*"))
	if len(logs) != 1 {
		t.Fatalf("expected one log, found %v", logs)
	}
	for _, expected := range []string{"thing: ", "exit status 127", logs[0], "line 29", "wrong: not found"} {
		if !strings.Contains(err.Error(), expected) {
			t.Errorf("expected %q in %v", expected, err)
		}
	}
	if strings.Contains(err.Error(), "line 5\n") {
		t.Errorf("not only the last lines: %v", err)
	}
	text, _ := os.ReadFile(logs[0])
	if !strings.Contains(string(text), "line 0\n") || !strings.HasSuffix(string(text), "wrong: not found\n") {
		t.Errorf("the log is not whole: %q", text)
	}
	// And nothing of it is used later.
	if o, err := b.recipe(t.Context(), "thing", fakeRecipe(script.String())); err == nil {
		t.Errorf("found %v", o)
	}
}

func TestNothingMade(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	if _, err := b.recipe(t.Context(), "thing", fakeRecipe("echo hello\n")); err == nil ||
		!strings.Contains(err.Error(), "left no output") {
		t.Errorf("found %v", err)
	}
}

func TestOfflineNamesWhatIsMissing(t *testing.T) {
	b, _ := newFake(t)
	b.Offline = true
	b.Lock.Packages[0].SHA256 = strings.Repeat("0", 64)
	b.Lock.Packages[0].Name = "gcc-14"
	_, err := b.recipe(t.Context(), "thing", fakeRecipe("echo hello\n"))
	if err == nil || !strings.Contains(err.Error(), "gcc-14") || !strings.Contains(err.Error(), "--offline") {
		t.Errorf("found %v", err)
	}
}

// TestUndeclaredInput has a build read what it does not list as an input: files of this machine, by the names
// that they have outside and those that toolchains look at, and another file of the store.
func TestUndeclaredInput(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("undeclared"), 0o644); err != nil {
		t.Fatal(err)
	}
	stored := filepath.Join(b.Store.Dir(), "downloads", "extra")
	if err := os.WriteFile(stored, []byte("undeclared"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{outside, stored, "/etc/hostname", "/etc/passwd", "/proc/1/root" + outside,
		"../../../../../../.." + outside} {
		o, err := b.recipe(t.Context(), "thing", fakeRecipe("copy "+path+" /out/copied\n"))
		var exit *sandbox.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("%s: expected the build to fail, found %v, %v", path, o.Dir, err)
		}
	}
	// Read later, outside of the sandbox, it would be the file of this machine.
	o, err := b.recipe(t.Context(), "thing", fakeRecipe("link "+outside+" /out/linked\n"))
	if err == nil || !strings.Contains(err.Error(), "/out/linked: expected a file") {
		t.Errorf("a link out of the sandbox: expected the build to fail, found %v, %v", o.Dir, err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	r := fakeRecipe("sleep 200ms\ncopy /src/source.bin /out/copied\n")
	var made []progress.Event
	var mu sync.Mutex
	var wait sync.WaitGroup
	dirs := make([]string, 4)
	for i := range dirs {
		wait.Go(func() {
			s, err := store.Open(b.Store.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			other := &Builder{Store: s, Lock: b.Lock, Progress: func(e progress.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Note == "building thing" {
					made = append(made, e)
				}
			}}
			o, err := other.recipe(t.Context(), "thing", r)
			if err != nil {
				t.Error(err)
			}
			dirs[i] = o.Dir
		})
	}
	wait.Wait()
	if len(made) != 1 || len(slices.Compact(dirs)) != 1 {
		t.Errorf("made %d times, in %v", len(made), dirs)
	}
}

// Killed in any stage (kill -9), the next build succeeds, and nothing half-made is left.
func TestKilled(t *testing.T) {
	require.Sandbox(t)
	dir := filepath.Join(t.TempDir(), "store")
	b, err := fakeBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	sh, _ := fakeShell()
	script := "echo start\nsleep 100ms\ncopy /src/source.bin /out/half\nsleep 100ms\ncopy /src/source.bin " +
		"/out/copied\n"
	killed := 0
	for after := 5 * time.Millisecond; ; after += 15 * time.Millisecond {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "NEB_TEST_BUILD_IN="+dir, "NEB_TEST_SCRIPT="+script, "NEB_TEST_SHELL="+
			sh)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("after a kill at %v: %v", after, err)
		}
		killed++
	}
	if killed < 5 {
		t.Errorf("killed only %d times", killed)
	}
	o, err := b.recipe(t.Context(), "thing", fakeRecipe(script))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Store.Close()
	if text, err := os.ReadFile(filepath.Join(o.Dir, "copied")); err != nil || string(text) != "the source" {
		t.Errorf("found %q, %v", text, err)
	}
	if _, err := store.Open(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancelled(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := b.recipe(ctx, "thing", fakeRecipe("sleep 1m\n"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("found %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(b.Store.Dir(), "logs")); len(left) > 0 {
		t.Errorf("left behind in logs: %v", left)
	}
	// The next process that makes something removes the working directory.
	next, err := store.Open(b.Store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, _, err := next.Output(t.Context(), "other", func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(b.Store.Dir(), "tmp")); len(left) > 0 {
		t.Errorf("left behind in tmp: %v", left)
	}
}

// A store without space left: an error that says so, and success once there is.
func TestNoSpaceLeft(t *testing.T) {
	require.Root(t)
	require.Mount(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b, err := fakeBuilder(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Store.Close()
	_, err = b.recipe(t.Context(), "thing", fakeRecipe("fill /build/big\ncopy /src/source.bin /out/copied\n"))
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("found %v", err)
	}
	if _, err := b.recipe(t.Context(), "thing",
		fakeRecipe("copy /src/source.bin /out/copied\n")); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// TestSeries plans kernels of the series in the lock: each has its own source, options and key.
func TestSeries(t *testing.T) {
	l := mustLock(t)
	plan := func(series string) job {
		t.Helper()
		b := &Builder{Lock: l, Series: series}
		j, err := b.kernelJob(t.Context(), "x86_64")
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	standard, named, other := plan(""), plan(kernel.DefaultSeries), plan("7.3")
	if standard.key() != named.key() || standard.key() == other.key() {
		t.Errorf("keys: default %s, 6.12 %s, 7.3 %s", standard.key(), named.key(), other.key())
	}
	has := func(j job, name string) bool {
		return slices.ContainsFunc(j.inputs, func(i Input) bool { return i.Name == name })
	}
	for _, name := range []string{"linux-source-7.3", "series-7.3.config"} {
		if has(standard, name) || !has(other, name) {
			t.Errorf("%s: an input of 6.12: %v, of 7.3: %v", name, has(standard, name), has(other, name))
		}
	}
	b := &Builder{Lock: l, Series: "5.4"}
	if _, err := b.kernelJob(t.Context(), "x86_64"); err == nil || !strings.Contains(err.Error(), `no kernel "5.4"`) {
		t.Errorf("found %v", err)
	}
}

// The second compilers are inputs of what they make, and of nothing else.
func TestOtherInputs(t *testing.T) {
	l := mustLock(t)
	plan := func(o *other) map[string]job {
		t.Helper()
		b := &Builder{Lock: l, Source: sourceOf(t), other: o}
		jobs, err := b.plan(t.Context(), "aarch64", Names)
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]job{}
		for _, j := range jobs {
			by[j.name] = j
		}
		return by
	}
	tools, err := (&Builder{Lock: l}).toolchain(lock.OtherGo)
	if err != nil {
		t.Fatal(err)
	}
	standard, others := plan(nil), plan(&other{inputs: tools.inputs()})
	for name, compiler := range map[string]string{"kernel": "gcc-13-aarch64-linux-gnu",
		"init": "golang-1.25-go", "linuxkit": "golang-1.25-go"} {
		has := func(j job) bool {
			return slices.ContainsFunc(j.inputs, func(i Input) bool { return i.Name == compiler })
		}
		if has(standard[name]) || !has(others[name]) || standard[name].key() == others[name].key() {
			t.Errorf("%s: %s is an input: %v, with other compilers: %v; keys %s, %s", name, compiler,
				has(standard[name]), has(others[name]), standard[name].key(), others[name].key())
		}
	}
}

func TestUnknown(t *testing.T) {
	b := &Builder{}
	if _, err := b.Build(t.Context(), "riscv64", "init"); err == nil || !strings.Contains(err.Error(), `"riscv64": expected x86_64 or aarch64`) {
		t.Errorf("found %v", err)
	}
	if _, err := b.Build(t.Context(), "x86_64", "initrd"); err == nil || !strings.Contains(err.Error(), `"initrd": expected one of init, linuxkit, kernel`) {
		t.Errorf("found %v", err)
	}
}

// TestFreshFiles: what was made anew can be written into a result, as verifying a release does.
func TestFreshFiles(t *testing.T) {
	require.Sandbox(t)
	b, _ := newFake(t)
	b.Fresh = true
	o, err := b.build(t.Context(), job{name: "init", arch: "x86_64",
		make: func(_ context.Context, r *run) error {
			return os.WriteFile(filepath.Join(r.dir, "init"), []byte("init"), 0o755)
		}})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(o.Dir, "init")); err != nil || string(text) != "init" {
		t.Errorf("found %q, %v", text, err)
	}
}
