//go:build slow

package nix

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
)

var kernel = flag.Bool("kernel", false, "TestRealise: build the attributes kernel and all too, which "+
	"compiles a kernel")

// TestRealise builds inside Nix's sandbox, from files that stand in the Nix store under the hashes of the
// lock. The bytes must be those of a build without Nix.
func TestRealise(t *testing.T) {
	dir, s := checkout(t), newStore(t)
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
	attributes := []attribute{{"init", "", []string{"init"}}, {"linuxkit", "bin", []string{"linuxkit"}}}
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
			report.Linef(t, "-A %s, built in Nix's sandbox: %s with SHA-256 %s; of neb build: %s",
				a.name, name, found[name], want[name])
		}
	}
}

// addInputs puts files and the Go modules into the Nix store, at the paths that follow from their hashes. Nix
// does not fetch what is there.
func (s nixStore) addInputs(dir string, cache *store.Store, files []lock.File) {
	s.t.Helper()
	work := s.t.TempDir()
	type input struct{ SHA256, Name, Path string }
	var locked []input
	s.eval(dir, `map (f: { inherit (f) sha256; inherit (f.file) name; path = f.file.outPath; }) locked`, &locked)
	for _, f := range files {
		i := slices.IndexFunc(locked, func(l input) bool { return l.SHA256 == f.SHA256 })
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

// sums returns the SHA-256, in hexadecimal, of the files below a path of the Nix store.
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
