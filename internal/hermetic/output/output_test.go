package output

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// As a child of the kill test this binary writes results, over and over.
func TestMain(m *testing.M) {
	if dir := os.Getenv("NEB_TEST_WRITE"); dir != "" {
		for i := 0; ; i++ {
			if err := Write(filepath.Join(dir, "result"),
				[]Set{{"x86_64", madeIn(filepath.Join(dir, fmt.Sprint("from", i%2)),
					"x86_64")}}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// made writes outputs for an architecture whose files hold text, below dir.
func made(t *testing.T, dir, arch, text string, names ...string) []component.Output {
	t.Helper()
	if len(names) == 0 {
		names = component.Names
	}
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range component.Files(name, arch) {
			if err := os.WriteFile(filepath.Join(dir, name, file), []byte(text+file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return madeIn(dir, arch)
}

// madeIn is what made left in dir.
func madeIn(dir, arch string) []component.Output {
	var outputs []component.Output
	for _, name := range component.Names {
		o := component.Output{Dir: filepath.Join(dir, name),
			Record: component.Record{Component: name, Arch: arch, Isolation: "namespaces"}}
		for _, file := range component.Files(name, arch) {
			content, err := os.ReadFile(filepath.Join(o.Dir, file))
			if err != nil {
				continue
			}
			sum := sha256.Sum256(content)
			o.Files = append(o.Files, component.File{Name: file, Size: int64(len(content)),
				SHA256: hex.EncodeToString(sum[:])})
			o.Inputs = []component.Input{{Kind: "source file", Name: name, SHA256: o.Files[0].SHA256}}
		}
		if len(o.Files) > 0 {
			outputs = append(outputs, o)
		}
	}
	return outputs
}

// tree lists a result's files with their permissions and what they begin with.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"*", "*/*", ".*"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			rel, _ := filepath.Rel(dir, path)
			if info, err := os.Stat(path); err == nil && rel != "." && rel != ".." {
				list = append(list, fmt.Sprint(info.Mode(), " ", rel))
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestWrite(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "a", "result")
	sets := []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "one ")},
		{"aarch64", made(t, t.TempDir(), "aarch64", "one ")}}
	if err := Write(dir, sets); err != nil {
		t.Fatal(err)
	}
	expected := []string{
		"-rw-r--r-- SHA256SUMS", "-rw-r--r-- aarch64.provenance.json", "-rw-r--r-- x86_64.provenance.json",
		"-rw-r--r-- aarch64/Image", "-rw-r--r-- aarch64/Image.config", "-rw-r--r-- aarch64/cmdline",
		"-rw-r--r-- aarch64/nsm.ko",
		"-rwxr-xr-x aarch64/init", "-rwxr-xr-x aarch64/linuxkit",
		"-rw-r--r-- x86_64/bzImage", "-rw-r--r-- x86_64/bzImage.config", "-rw-r--r-- x86_64/cmdline",
		"-rw-r--r-- x86_64/nsm.ko",
		"-rwxr-xr-x x86_64/init", "-rwxr-xr-x x86_64/linuxkit",
		"drwxr-xr-x aarch64", "drwxr-xr-x x86_64",
	}
	slices.Sort(expected)
	if got := tree(t, dir); !slices.Equal(got, expected) {
		t.Errorf("expected\n%s\nfound\n%s", strings.Join(expected, "\n"), strings.Join(got, "\n"))
	}
	sums, err := os.ReadFile(filepath.Join(dir, SumsName))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(string(sums)), "\n"); len(lines) != 12 ||
		!strings.HasSuffix(lines[0], "  aarch64/Image") {
		t.Errorf("sums: %q", lines)
	}
	check := exec.Command("sha256sum", "--check", "--strict", SumsName)
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v: %s", err, out)
	}

	// One component of one architecture: the others stay, with their records.
	if err := Write(dir, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "two ", "init")}}); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"x86_64/init": "two init", "x86_64/bzImage": "one bzImage",
		"aarch64/init": "one init"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != content {
			t.Errorf("%s: expected %q, found %q, %v", name, content, text, err)
		}
	}
	var p Provenance
	text, err := os.ReadFile(filepath.Join(dir, ProvenanceName("x86_64")))
	if err := errors.Join(err, json.Unmarshal(text, &p)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("two init"))
	if len(p.Components) != 3 || p.Components[0].Component != "init" ||
		p.Components[0].Files[0].SHA256 != hex.EncodeToString(sum[:]) ||
		p.Components[0].Isolation != "namespaces" {
		t.Errorf("provenance: %s", text)
	}
	// A file that somebody changed since has no provenance any more, and is listed as it is.
	if err := os.WriteFile(filepath.Join(dir, "x86_64/linuxkit"), []byte("mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "three ", "init")}}); err != nil {
		t.Fatal(err)
	}
	p = Provenance{}
	text, _ = os.ReadFile(filepath.Join(dir, ProvenanceName("x86_64")))
	if err := json.Unmarshal(text, &p); err != nil || len(p.Components) != 2 {
		t.Errorf("provenance of a changed file: %v %s", err, text)
	}
}

func TestWriteAgainChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "result")
	sets := []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "one ")}}
	if err := Write(dir, sets); err != nil {
		t.Fatal(err)
	}
	stamp := func() (times []time.Time) {
		for _, name := range []string{"x86_64", "x86_64/init", SumsName, ProvenanceName("x86_64")} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, info.ModTime())
		}
		return times
	}
	before := stamp()
	if err := Write(dir, sets); err != nil {
		t.Fatal(err)
	}
	if after := stamp(); !slices.Equal(before, after) {
		t.Errorf("written again: %v, %v", before, after)
	}
}

// TestForeignSums: sums of something else are not replaced.
func TestForeignSums(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SumsName)
	if err := os.WriteFile(path, []byte(strings.Repeat("0", 64)+"  other.tar\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil ||
		!strings.Contains(err.Error(), path+` was not written by neb: it lists "other.tar"`) {
		t.Errorf("found %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "one ")}}); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err != nil {
		t.Errorf("our own: %v", err)
	}
}

// TestStrangeDirectory writes into a directory whose name would be a pattern to others, beside one that it
// would match, and takes away what a killed process left in it alone.
func TestStrangeDirectory(t *testing.T) {
	top := t.TempDir()
	for _, name := range []string{"out[1]", "out["} {
		dir := filepath.Join(top, name)
		left, others := filepath.Join(dir, newMark+"x86_64"), filepath.Join(top, "out1", newMark+"x86_64")
		for _, d := range []string{left, others} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, text := range []string{"one ", "two "} {
			if err := Write(dir, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", text)}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: what was left is there: %v", name, err)
		}
		if _, err := os.Lstat(others); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	foreign, other := filepath.Join(base, "foreign"), filepath.Join(base, "other architecture")
	if err := errors.Join(os.WriteFile(file, []byte("precious"), 0o644),
		os.MkdirAll(filepath.Join(foreign, "x86_64"), 0o755),
		os.WriteFile(filepath.Join(foreign, "x86_64", "notes.txt"), []byte("precious"),
			0o644), os.MkdirAll(filepath.Join(other, "aarch64"), 0o755),
		os.WriteFile(filepath.Join(other, "aarch64", "notes.txt"), []byte("precious"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, expected string }{
		{file, "found a file"},
		{foreign, "notes.txt was not written by neb"},
		{other, "notes.txt was not written by neb"},
	} {
		if err := Check(c.dir); err == nil || !strings.Contains(err.Error(), c.expected) ||
			!strings.Contains(err.Error(), c.dir) {
			t.Errorf("%s: found %v", c.dir, err)
		}
		if err := Write(c.dir, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "one ")}}); err == nil {
			t.Errorf("%s: written", c.dir)
		}
	}
	for _, path := range []string{file, filepath.Join(foreign, "x86_64", "notes.txt")} {
		if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	if err := Check(filepath.Join(base, "new")); err != nil {
		t.Error(err)
	}
}

// In a directory for everyone another user may have made the output directory, and could change what is in
// it.
func TestDirectoryOfAnotherUser(t *testing.T) {
	require.Root(t)
	tmp := t.TempDir()
	theirs := filepath.Join(tmp, "result")
	if err := errors.Join(os.Chmod(tmp, fs.ModeSticky|0o777), os.Mkdir(theirs, 0o755),
		os.Chown(theirs, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Check": Check(theirs),
		"Write": Write(theirs, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "one ")}})} {
		if err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("%s: expected a refusal, found %v", what, err)
		}
	}
	if left, _ := os.ReadDir(theirs); len(left) > 0 {
		t.Errorf("written there: %v", left)
	}
}

// Whenever it is killed, all files of the directory are of one build, and the next write succeeds.
// Builds that write to one place at the same time take turns.
func TestTwoAtOnce(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "result")
	var wait sync.WaitGroup
	for i := range 2 {
		from := filepath.Join(dir, fmt.Sprint("from", i))
		made(t, from, "x86_64", fmt.Sprint(i, strings.Repeat("x", 1<<16)))
		set := []Set{{"x86_64", madeIn(from, "x86_64")}}
		wait.Go(func() {
			for range 10 {
				if err := Write(out, set); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	listed, err := os.ReadFile(filepath.Join(out, SumsName))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := sums(out); err != nil || !bytes.Equal(found, listed) ||
		bytes.Count(listed, []byte("\n")) != 6 {
		t.Errorf("expected the sums\n%sfound\n%s%v", found, listed, err)
	}
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		made(t, filepath.Join(dir, fmt.Sprint("from", i)), "x86_64",
			fmt.Sprint(i, strings.Repeat("x", 1<<16)))
	}
	out := filepath.Join(dir, "result")
	for i := range 20 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "NEB_TEST_WRITE="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+7*i) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		paths, _ := filepath.Glob(filepath.Join(out, "x86_64", "*"))
		if len(paths) == 0 {
			continue // killed before the first was there
		}
		var firsts []byte
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil || len(content) < 1<<16 {
				t.Fatalf("%s: %d bytes, %v", path, len(content), err)
			}
			firsts = append(firsts, content[0])
		}
		if len(paths) != 6 || len(bytes.Trim(firsts, string(firsts[:1]))) > 0 {
			t.Fatalf("files of two builds: %v %q", paths, firsts)
		}
	}
	if err := Write(out, []Set{{"x86_64", madeIn(filepath.Join(dir, "from0"), "x86_64")}}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(out, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNoSpaceLeft(t *testing.T) {
	require.Root(t)
	require.Mount(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	out := filepath.Join(dir, "result")
	if err := Write(out, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "small ")}}); err != nil {
		t.Fatal(err)
	}
	err := Write(out, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", strings.Repeat("big", 1<<16))}})
	if err == nil || !strings.Contains(err.Error(), "no space left on device") ||
		!strings.Contains(err.Error(), "--output") {
		t.Errorf("found %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(out, "x86_64/init")); err != nil ||
		string(text) != "small init" {
		t.Errorf("the old result: %q, %v", text, err)
	}
	if err := Write(out, []Set{{"x86_64", made(t, t.TempDir(), "x86_64", "fits ")}}); err != nil {
		t.Errorf("what fits: %v", err)
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	set := Set{"x86_64", made(t, t.TempDir(), "x86_64", "one ")}
	if err := Write(dir, []Set{set}); err != nil {
		t.Fatal(err)
	}
	states := func() map[string]State {
		findings, err := Compare(dir, []Set{set})
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]State{}
		for _, f := range findings {
			states[f.Path] = f.State
		}
		return states
	}
	for path, state := range states() {
		if state != Same {
			t.Errorf("%s: %s", path, state)
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "x86_64/init"), []byte("one inix"), 0o755),
		os.Remove(filepath.Join(dir, "x86_64/nsm.ko")),
		os.WriteFile(filepath.Join(dir, "x86_64/extra"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, SumsName), []byte("other"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	got := states()
	for path, expected := range map[string]State{
		"x86_64/init": Different, "x86_64/nsm.ko": Missing, "x86_64/extra": Unexpected,
		"x86_64/bzImage": Same, SumsName: Different,
	} {
		if got[path] != expected {
			t.Errorf("%s: expected %s, found %s", path, expected, got[path])
		}
	}
}

func TestComponents(t *testing.T) {
	dir := t.TempDir()
	if _, err := Components(dir); err == nil || !strings.Contains(err.Error(), "no blobs found") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Components(filepath.Join(dir, "nothing")); err == nil {
		t.Error("no directory: no error")
	}
	if err := Write(dir, []Set{{"aarch64",
		made(t, t.TempDir(), "aarch64", "x", "kernel", "init")}}); err != nil {
		t.Fatal(err)
	}
	found, err := Components(dir)
	if err != nil || len(found) != 1 || !slices.Equal(found["aarch64"], []string{"init", "kernel"}) {
		t.Errorf("found %v, %v", found, err)
	}
	// What is gone and stands in SHA256SUMS belongs to the set.
	if err := os.Remove(filepath.Join(dir, "aarch64", "init")); err != nil {
		t.Fatal(err)
	}
	if found, err := Components(dir); err != nil ||
		!slices.Equal(found["aarch64"], []string{"init", "kernel"}) {
		t.Errorf("without init: found %v, %v", found, err)
	}
	// So does a whole architecture.
	built := []Set{{"aarch64", made(t, t.TempDir(), "aarch64", "x", "kernel", "init")}}
	if err := os.RemoveAll(filepath.Join(dir, "aarch64")); err != nil {
		t.Fatal(err)
	}
	findings, err := Compare(dir, built)
	if err != nil || len(findings) == 0 || findings[0].State != Missing {
		t.Errorf("without aarch64: %v, %v", findings, err)
	}
}
