//go:build slow

package component

import (
	"archive/zip"
	"bytes"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// The locked Go toolchain gets a linker that changes every program it links. Debian's Go makes from the
// source of that toolchain the one of neb.lock, byte for byte, and names the linker; and the toolchain that
// it made makes the init of neb.lock.
func TestOtherToolchain(t *testing.T) {
	b := sharedBuilder(t)
	packages, err := b.Lock.Files(runtime.GOARCH, lock.OtherGo)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), packages))
	locked := b.Lock.Go.Hosts[runtime.GOARCH]
	link := "pkg/tool/linux_" + runtime.GOARCH + "/link"
	module := withLinker(t, b.Store.Path(locked), link)

	sums := func(b *Builder) (sums []string) {
		t.Helper()
		for _, arch := range Archs {
			outputs, err := b.Build(t.Context(), arch, "init")
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, outputs[0].Files[0].SHA256)
		}
		return sums
	}
	want := sums(b)
	bad, err := task{Store: ownStore(t, os.Geteuid(), "modules-", "go-"), Source: b.Source}.builder()
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Store.Close()
	for _, f := range packages {
		copyTo(t, b.Store.Path(f), bad.Store.Path(f))
	}
	bad.Lock.Go.Hosts = maps.Clone(bad.Lock.Go.Hosts)
	f := download(bad.Store, locked.Name, module)
	f.Version, f.Path, f.Archive = locked.Version, locked.Path, locked.Archive
	bad.Lock.Go.Hosts[runtime.GOARCH] = f
	if got := sums(bad); got[0] == want[0] || got[1] == want[1] {
		t.Fatalf("the linker changes nothing: %s", got)
	}

	sum, differ, err := bad.UseOther(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if sum != locked.SHA256 {
		t.Errorf("Debian's Go makes a toolchain with SHA-256 %s, the lock has %s", sum, locked.SHA256)
	}
	if !slices.Equal(differ, []string{link}) {
		t.Errorf("expected %s to differ, found %s", link, differ)
	}
	if got := sums(bad); !slices.Equal(got, want) {
		t.Errorf("init: expected %s, found %s", want, got)
	}
}

// withLinker returns a Go toolchain's module, with a linker that gives a section of each program another
// name.
func withLinker(t *testing.T, path, link string) []byte {
	t.Helper()
	archive, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range archive.File {
		if !strings.HasSuffix(f.Name, "/"+link) {
			err = w.Copy(f)
		} else {
			var from io.ReadCloser
			var to io.Writer
			var program []byte
			if from, err = f.Open(); err != nil {
				t.Fatal(err)
			}
			if program, err = io.ReadAll(from); err != nil {
				t.Fatal(err)
			}
			if to, err = w.Create(f.Name); err != nil {
				t.Fatal(err)
			}
			_, err = to.Write(bytes.ReplaceAll(program, []byte(".gopclntab"), []byte(".gopclntaB")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
