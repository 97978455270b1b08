package linuxkit_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/linuxkit"
	. "github.com/nitro-enclaves-bootstrap/neb/test/puzzle"
)

// FuzzMerge merges layers made of the fuzzer's bytes, and compares the tree with what a plain model of the rules makes: a map
// from names to contents, one layer after the other. Symbolic links are left to the puzzles.
func FuzzMerge(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x10\x21\x32\x43"))
	f.Add([]byte("dabf\xff.wb\xffo\xffxyz"))
	f.Add(bytes.Repeat([]byte{0x21, 0x42, 0x63, 0x84, 0xff}, 10))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) <= 200 {
			mergeAndCompare(t, script)
		}
	})
}

// TestMergeRandom is FuzzMerge with a few hundred scripts that are the same each time.
func TestMergeRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		script := make([]byte, 5+r.IntN(40))
		for i := range script {
			if script[i] = byte(r.IntN(256)); r.IntN(8) == 0 {
				script[i] = 0xff
			}
		}
		mergeAndCompare(t, script)
	}
}

func mergeAndCompare(t *testing.T, script []byte) {
	t.Helper()
	var all [][]Entry
	for part := range bytes.SplitSeq(script, []byte{0xff}) {
		var layer []Entry
		for i, b := range part {
			name := strings.TrimSuffix(strings.Repeat("d/", int(b>>2&3)), "/")
			base := string("abd"[b>>4%3])
			switch b & 3 {
			case 0:
				layer = append(layer, Dir(path.Join(name, base)+"/", 0o700+int64(i%8)))
			case 1:
				layer = append(layer, File(path.Join(name, base), fmt.Sprint(len(all), i)))
			case 2:
				layer = append(layer, File(path.Join(name, ".wh."+base), ""))
			case 3:
				layer = append(layer, File(path.Join(name, ".wh..wh..opq"), ""))
			}
		}
		all = append(all, layer)
	}
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers(t, all), Plain), "")
	img, err := image.Open(t.Context(), "oci:"+l.Dir(), image.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	tree := image.NewTree(t.TempDir(), image.Limits{})
	defer tree.Close()
	if err := tree.AddImage(t.Context(), img, ""); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = tree.Walk(func(e *image.Entry) error {
		var b bytes.Buffer
		if _, err := tree.CopyBody(&b, e); err != nil {
			return err
		}
		got = append(got, fmt.Sprintf("%s %o %s", e.Path, e.Mode, b.String()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := model(all); !slices.Equal(got, want) {
		t.Errorf("layers %v\ngot  %q\nwant %q", describe(all), got, want)
	}
}

func describe(all [][]Entry) (names [][]string) {
	for _, layer := range all {
		var n []string
		for _, e := range layer {
			n = append(n, e.Name)
		}
		names = append(names, n)
	}
	return names
}

// model applies layers as the specification puts it: first everything that a layer hides goes from the layers below, then
// what it has is put in.
func model(all [][]Entry) (lines []string) {
	type node struct {
		mode int64 // 0 is a file
		body string
	}
	tree := map[string]node{}
	remove := func(name string) {
		for other := range tree {
			if other == name || strings.HasPrefix(other, name+"/") {
				delete(tree, other)
			}
		}
	}
	for _, layer := range all {
		for _, e := range layer {
			dir, base := path.Split(e.Name)
			dir = strings.TrimSuffix(dir, "/")
			switch hidden, is := strings.CutPrefix(base, ".wh."); {
			case base == ".wh..wh..opq":
				for other := range tree {
					if dir == "" || strings.HasPrefix(other, dir+"/") {
						delete(tree, other)
					}
				}
			case is:
				remove(path.Join(dir, hidden))
			}
		}
		for _, e := range layer {
			name := strings.TrimSuffix(e.Name, "/")
			if strings.HasPrefix(path.Base(name), ".wh.") {
				continue
			}
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if n, ok := tree[dir]; !ok || n.mode == 0 {
					tree[dir] = node{mode: 0o755}
				}
			}
			if old, ok := tree[name]; e.Typeflag != tar.TypeDir || ok && old.mode == 0 {
				remove(name)
			}
			if e.Typeflag == tar.TypeDir {
				tree[name] = node{mode: e.Mode}
			} else {
				tree[name] = node{body: e.Body}
			}
		}
	}
	for name, n := range tree {
		if n.mode != 0 {
			lines = append(lines, fmt.Sprintf("%s %o ", name, 0o040000|n.mode))
		} else {
			lines = append(lines, fmt.Sprintf("%s %o %s", name, 0o100644, n.body))
		}
	}
	slices.Sort(lines)
	return lines
}

// FuzzLayer gives any bytes as a layer. It is refused, or becomes a ramdisk that the independent reader takes.
func FuzzLayer(f *testing.F) {
	for _, p := range puzzles {
		for _, entries := range p.layers {
			f.Add(Layer(f, entries...))
		}
	}
	f.Add(Gzip.Pack(f, Layer(f, File("a", "b"))))
	f.Add(Zstd.Pack(f, Layer(f, File("a", "b"))))
	f.Add(sparseLayer(f, 5000))
	f.Fuzz(func(t *testing.T, layer []byte) {
		tree := image.NewTree(t.TempDir(), image.Limits{Entries: 1000, Bytes: 1 << 20})
		defer tree.Close()
		if tree.AddTarReader(t.Context(), bytes.NewReader(layer), "rootfs") != nil {
			return
		}
		var b bytes.Buffer
		ignore := func(string, string) error { return nil }
		if err := linuxkit.WriteRamdisk(&b, tree, linuxkit.Ramdisk{Complete: true, Lost: ignore}); err != nil {
			// A path of the layer, or one through its symbolic links, may be too long with the prefix. Nothing else is wrong.
			if !strings.Contains(err.Error(), "the kernel unpacks at most 4095") {
				t.Error(err)
			}
			return
		}
		lines := newc(t, b.Bytes()).lines
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "neb ") {
			t.Errorf("%q", lines)
		}
	})
}
