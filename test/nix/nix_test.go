// Package nix tests the Nix door with Debian's Nix: that every attribute evaluates, that Nix would fetch exactly what neb.lock names,
// and that neb builds inside Nix's sandbox, in a sandbox of its own. nixpkgs is stood in for (testdata/nixpkgs.nix).
package nix

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

const root = "../.."

var kernel = flag.Bool("kernel", false, "TestRealise: build kernel and all too, which compiles a kernel: give go test a -timeout of 45m")

// source copies the source tree and puts the stand-in for nixpkgs and its busybox into it.
func source(t *testing.T) string {
	t.Helper()
	require.Command(t, "nix-instantiate")
	busybox := require.StaticCommand(t, "busybox")
	dir := filepath.Join(t.TempDir(), "neb")
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, name := range strings.Split(strings.Trim(string(names), "\x00"), "\x00") {
		if copyFile(t, filepath.Join(root, name), filepath.Join(dir, name)) != nil {
			continue // gone from the work tree, and not yet from the index
		}
	}
	if err := copyFile(t, "testdata/nixpkgs.nix", filepath.Join(dir, "nixpkgs.nix")); err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(dir, "busybox")
	if err := copyFile(t, busybox, filepath.Join(tools, "busybox")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(tools, "busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(tools, a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func copyFile(t *testing.T, from, to string) error {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return nil
}

// nixStore is a Nix store of the test's own, so that the machine's stays as it is.
type nixStore struct {
	t   *testing.T
	dir string
}

func newStore(t *testing.T) nixStore {
	dir := t.TempDir()
	t.Cleanup(func() { // what is in a store has no write permission
		if out, err := exec.Command("chmod", "-R", "u+w", dir).CombinedOutput(); err != nil {
			t.Logf("chmod: %s", out)
		}
	})
	return nixStore{t, dir}
}

func (s nixStore) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, append([]string{"--store", s.dir}, args...)...)
	cmd.Env = append(os.Environ(), "NIX_CONFIG=substituters =\nsandbox = true\nsandbox-fallback = false\nbuild-users-group =\nexperimental-features = nix-command flakes\nwarn-dirty = false")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func (s nixStore) must(name string, args ...string) string {
	s.t.Helper()
	out, err := s.run(name, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s nixStore) eval(dir, expression string, v any) {
	s.t.Helper()
	out := s.must("nix", "eval", "--impure", "--json", "--expr", fmt.Sprintf("with import %s { }; %s", dir, expression))
	if err := json.Unmarshal([]byte(out), v); err != nil {
		s.t.Fatalf("%s: %v", out, err)
	}
}

var cross = `(import ./nixpkgs.nix { }).pkgsCross.aarch64-multiplatform`

func TestEvaluate(t *testing.T) {
	dir, s := source(t), newStore(t)
	for _, attribute := range []string{"all", "kernel", "init", "linuxkit", "neb", "modules"} {
		for _, args := range [][]string{nil, {"--arg", "pkgs", cross}, {"--argstr", "mirror", "http://mirror.example"}} {
			cmd := append([]string{"-A", attribute, filepath.Join(dir, "default.nix")}, args...)
			if len(args) > 1 && args[0] == "--arg" {
				cmd[len(cmd)-1] = strings.ReplaceAll(cross, "./", dir+"/")
			}
			out, err := s.run("nix-instantiate", cmd...)
			if err != nil || !strings.HasSuffix(out, ".drv") {
				t.Errorf("%v: %s %v", cmd, out, err)
			}
			report.Linef(t, "-A %s %s: %s", attribute, strings.Join(args, " "), filepath.Base(out))
		}
	}
	for _, system := range []string{"x86_64-linux", "aarch64-linux"} {
		for _, name := range []string{"all", "kernel", "init", "linuxkit", "neb", "default"} {
			what := fmt.Sprintf("path:%s#packages.%s.%s.drvPath", dir, system, name)
			if out, err := s.run("nix", "eval", "--raw", what); err != nil || !strings.HasSuffix(out, ".drv") {
				t.Errorf("%s: %s %v", what, out, err)
			}
		}
	}
}

// What neb is not made of builds nothing anew, whatever lies in the checkout; what goes into a blob does.
func TestSource(t *testing.T) {
	dir, s := source(t), newStore(t)
	derivation := func() string { return s.must("nix-instantiate", "-A", "kernel", filepath.Join(dir, "default.nix")) }
	before := derivation()
	for _, name := range []string{"app.eif", "result-2", "notes/draft", "Makefile", "docs/kernel.md", "internal/cli/man_test.go", "internal/pack/testdata/new", "internal/testing/vm/vm.go", ".git/HEAD"} {
		edit(t, filepath.Join(dir, name))
		if after := derivation(); after != before {
			t.Errorf("%s: the kernel would be built anew", name)
			before = after
		}
	}
	for _, name := range []string{"kernel/fragments/base.config", "internal/hermetic/component/kernel.go", "neb.lock"} {
		edit(t, filepath.Join(dir, name))
		after := derivation()
		if after == before {
			t.Errorf("%s: the kernel would not be built anew", name)
		}
		before = after
	}
}

// edit adds a blank line to a file, which it makes if need be.
func edit(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestUnsupportedSystem(t *testing.T) {
	dir, s := source(t), newStore(t)
	for _, system := range []string{"i686-linux", "x86_64-darwin"} {
		_, err := s.run("nix-instantiate", filepath.Join(dir, "default.nix"), "-A", "all", "--arg", "pkgs", fmt.Sprintf(`import %s/nixpkgs.nix { system = "%s"; }`, dir, system))
		if want := "neb: building for " + system + " is not supported, only aarch64-linux x86_64-linux"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, found %v", want, err)
		}
	}
}

// What Nix fetches for both architectures is what the lock names, by the same hashes, and each file's place in the Nix
// store is the one that its hash gives.
func TestHashes(t *testing.T) {
	dir, s := source(t), newStore(t)
	var found []struct {
		SHA256, Name, Path, Hash string
		URLs                     []string
	}
	s.eval(dir, `map (f: { inherit (f) sha256; inherit (f.file) name; path = f.file.outPath; hash = f.file.outputHash; urls = f.file.urls or [ ]; }) locked`, &found)
	var nixHashes []string
	for _, f := range found {
		nixHashes = append(nixHashes, f.SHA256)
		if f.Hash != f.SHA256 {
			t.Errorf("%s: fetched by %s, locked as %s", f.Name, f.Hash, f.SHA256)
		}
	}
	l := readLock(t)
	files, err := l.Files(runtime.GOARCH, lock.Base, lock.GCCx86_64, lock.GCCaarch64)
	if err != nil {
		t.Fatal(err)
	}
	var lockHashes []string
	for _, f := range append(files, l.Kernel, l.Go.Hosts[runtime.GOARCH]) {
		lockHashes = append(lockHashes, f.SHA256)
	}
	slices.Sort(nixHashes)
	slices.Sort(lockHashes)
	if nixHashes = slices.Compact(nixHashes); !slices.Equal(nixHashes, lockHashes) {
		t.Errorf("Nix fetches %d files, the lock names %d, or others", len(nixHashes), len(lockHashes))
	}
	report.Linef(t, "Nix fetches %d files by the hashes of the lock", len(nixHashes))
	// Nix itself says where a file of this content goes.
	for _, f := range found[:min(3, len(found))] {
		want := s.must("nix-store", "--print-fixed-path", "sha256", f.SHA256, f.Name)
		if f.Path != want {
			t.Errorf("%s: expected at %s, found at %s", f.Name, want, f.Path)
		}
	}
}

// nix/modules.json is the hash of what go.sum names, and Nix agrees how such a hash is made.
func TestModules(t *testing.T) {
	require.Command(t, "nix-hash")
	keep := filepath.Join(t.TempDir(), "modules")
	cmd := exec.Command("go", "run", "./internal/tools/nixhash", "-check", "-keep", keep)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("nix-hash", "--type", "sha256", keep).Output()
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ SHA256 string }
	text, err := os.ReadFile(filepath.Join(root, "nix", "modules.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatal(err)
	}
	if found := strings.TrimSpace(string(out)); found != said.SHA256 {
		t.Errorf("nix-hash says %s, nix/modules.json %s", found, said.SHA256)
	}
}

// neb builds inside Nix's sandbox, in its own, from files that are in the Nix store by the hashes of the lock: the bytes are those of a build
// without Nix. The kernel takes as long as it ever does, and so has to be asked for.
func TestRealise(t *testing.T) {
	dir, s := source(t), newStore(t)
	cache, err := store.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	l, arch := readLock(t), component.Host()
	type attribute struct {
		name, place string // place is the directory of its files
		components  []string
	}
	attributes := []attribute{{"init", "", []string{"init"}}}
	if !testing.Short() {
		attributes = append(attributes, attribute{"linuxkit", "bin", []string{"linuxkit"}})
	}
	inputs := []lock.File{l.Go.Hosts[runtime.GOARCH]}
	if *kernel {
		attributes = append(attributes,
			attribute{"kernel", "", []string{"kernel"}},
			attribute{"all", arch, []string{"init", "kernel", "linuxkit"}})
		packages, err := l.Files(runtime.GOARCH, lock.Base, "gcc-"+arch)
		if err != nil {
			t.Fatal(err)
		}
		inputs = append(append(inputs, l.Kernel), packages...)
	}
	if err := cache.Fetch(t.Context(), inputs, store.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.addInputs(dir, cache, inputs)

	b := &component.Builder{Store: cache, Lock: l, Source: dir}
	for _, a := range attributes {
		want := map[string]string{}
		outputs, err := b.Build(t.Context(), arch, a.components...)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range outputs {
			for _, f := range o.Files {
				want[filepath.Join(a.place, f.Name)] = f.SHA256
			}
		}
		found := s.sums(s.must("nix-build", "--no-out-link", "-A", a.name, filepath.Join(dir, "default.nix")))
		if !maps.Equal(found, want) {
			t.Errorf("-A %s made %v\nneb build %v", a.name, found, want)
		}
		for _, name := range slices.Sorted(maps.Keys(found)) {
			report.Linef(t, "-A %s, built in Nix's sandbox: %s with SHA-256 %s; of neb build: %s", a.name, name, found[name], want[name])
		}
	}
}

// addInputs puts files, and the Go modules, into the Nix store at the places that their hashes give, where Nix looks before it fetches.
func (s nixStore) addInputs(dir string, cache *store.Store, files []lock.File) {
	s.t.Helper()
	work := s.t.TempDir()
	var locked []struct{ SHA256, Name, Path string }
	s.eval(dir, `map (f: { inherit (f) sha256; inherit (f.file) name; path = f.file.outPath; }) locked`, &locked)
	for _, f := range files {
		i := slices.IndexFunc(locked, func(l struct{ SHA256, Name, Path string }) bool { return l.SHA256 == f.SHA256 })
		if i < 0 {
			s.t.Fatalf("Nix does not fetch %s of the lock", f.Path)
		}
		named := filepath.Join(work, locked[i].Name)
		if err := copyFile(s.t, cache.Path(f), named); err != nil {
			s.t.Fatal(err)
		}
		if at := s.must("nix-store", "--add-fixed", "sha256", named); at != locked[i].Path {
			s.t.Fatalf("%s is at %s, Nix looks for it at %s", f.Path, at, locked[i].Path)
		}
		if err := os.Remove(named); err != nil {
			s.t.Fatal(err)
		}
	}
	modules := filepath.Join(work, "neb-go-modules")
	keep := exec.Command("go", "run", "./internal/tools/nixhash", "-check", "-keep", modules)
	keep.Dir = root
	if out, err := keep.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	s.must("nix-store", "--add-fixed", "--recursive", "sha256", modules)
}

// sums are the SHA-256, in hexadecimal, of the files under a path of the Nix store.
func (s nixStore) sums(path string) map[string]string {
	s.t.Helper()
	sums, under := map[string]string{}, os.DirFS(filepath.Join(s.dir, path))
	err := fs.WalkDir(under, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(under, name)
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return sums
}

func readLock(t *testing.T) *lock.Lock {
	t.Helper()
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
