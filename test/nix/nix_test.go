// Package nix tests default.nix and flake.nix with Debian's Nix: every attribute evaluates, Nix would fetch
// exactly what neb.lock names, and neb builds in its own sandbox inside Nix's. testdata/nixpkgs.nix stands in
// for nixpkgs.
package nix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/source"
)

const root = "../.."

// checkout copies the source tree, with the stand-in for nixpkgs and its busybox.
func checkout(t *testing.T) string {
	t.Helper()
	require.Command(t, "nix-instantiate")
	busybox := require.StaticCommand(t, "busybox")
	dir := filepath.Join(t.TempDir(), "neb")
	source.Copy(t, root, dir)
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

// config is Nix's configuration: nothing is downloaded, and every build is sandboxed.
const config = `substituters =
sandbox = true
sandbox-fallback = false
build-users-group =
experimental-features = nix-command flakes
warn-dirty = false
`

// nixStore is a Nix store of the test, so that it does not change the machine's.
type nixStore struct {
	t   *testing.T
	dir string
}

func newStore(t *testing.T) nixStore {
	dir := t.TempDir()
	t.Cleanup(func() { // files in a store are read-only
		if out, err := exec.Command("chmod", "-R", "u+w", dir).CombinedOutput(); err != nil {
			t.Logf("chmod: %s", out)
		}
	})
	return nixStore{t, dir}
}

func (s nixStore) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, append([]string{"--store", s.dir}, args...)...)
	cmd.Env = append(os.Environ(), "NIX_CONFIG="+config)
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
	out := s.must("nix", "eval", "--impure", "--json",
		"--expr", fmt.Sprintf("with import %s { }; %s", dir, expression))
	if err := json.Unmarshal([]byte(out), v); err != nil {
		s.t.Fatalf("%s: %v", out, err)
	}
}

var cross = `(import ./nixpkgs.nix { }).pkgsCross.aarch64-multiplatform`

func TestEvaluate(t *testing.T) {
	dir, s := checkout(t), newStore(t)
	for _, attribute := range []string{"all", "kernel", "init", "linuxkit", "neb", "modules"} {
		variants := [][]string{nil, {"--arg", "pkgs", cross}, {"--argstr", "mirror", "http://mirror.example"}}
		for _, args := range variants {
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
			if out, err := s.run("nix", "eval", "--raw", what); err != nil ||
				!strings.HasSuffix(out, ".drv") {
				t.Errorf("%s: %s %v", what, out, err)
			}
		}
	}
}

// TestSource checks that files that no blob is built from do not change the derivation, and that others do.
func TestSource(t *testing.T) {
	dir, s := checkout(t), newStore(t)
	derivation := func() string {
		return s.must("nix-instantiate", "-A", "kernel", filepath.Join(dir, "default.nix"))
	}
	before := derivation()
	for _, name := range []string{"app.eif", "result-2", "notes/draft", "Makefile", "docs/kernel.md",
		"internal/cli/man_test.go", "internal/pack/testdata/new", "internal/testing/vm/vm.go", ".git/HEAD"} {
		edit(t, filepath.Join(dir, name))
		if after := derivation(); after != before {
			t.Errorf("%s: the kernel would be rebuilt", name)
			before = after
		}
	}
	for _, name := range []string{
		"kernel/fragments/base.config", "internal/hermetic/component/kernel.go", "neb.lock",
	} {
		edit(t, filepath.Join(dir, name))
		after := derivation()
		if after == before {
			t.Errorf("%s: the kernel would not be rebuilt", name)
		}
		before = after
	}
}

// edit adds a blank line to a file, and creates the file where it is missing.
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
	dir, s := checkout(t), newStore(t)
	for _, system := range []string{"i686-linux", "x86_64-darwin"} {
		_, err := s.run("nix-instantiate", filepath.Join(dir, "default.nix"), "-A", "all",
			"--arg", "pkgs", fmt.Sprintf(`import %s/nixpkgs.nix { system = "%s"; }`, dir, system))
		want := "neb: building for " + system + " is not supported, only aarch64-linux x86_64-linux"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, found %v", want, err)
		}
	}
}

// TestHashes checks that Nix fetches, for both architectures, the files that the lock names, by the same
// hashes, and that each file's path in the Nix store follows from its hash.
func TestHashes(t *testing.T) {
	dir, s := checkout(t), newStore(t)
	var found []struct {
		SHA256, Name, Path, Hash string
		URLs                     []string
	}
	s.eval(dir, `map (f: {
		inherit (f) sha256;
		inherit (f.file) name;
		path = f.file.outPath;
		hash = f.file.outputHash;
		urls = f.file.urls or [ ];
	}) locked`, &found)
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

// TestModules checks the hash of the Go modules in nix/modules.json, with our tool and with Nix's.
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

func readLock(t *testing.T) *lock.Lock {
	t.Helper()
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
