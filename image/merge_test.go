package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// FuzzMerge merges layers made of the fuzzer's bytes, and compares the tree with what a plain model of the
// rules makes: a map from names to contents, one layer after the other. Links are left to the puzzles.
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

// TestMergeRandom is FuzzMerge with scripts that are the same each time.
func TestMergeRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		script := make([]byte, 5+r.IntN(40))
		for i := range script {
			if script[i] = byte(r.IntN(256)); r.IntN(8) == 0 {
				script[i] = 0xff
			}
		}
		mergeAndCompare(t, script)
	}
}

// scripted is an entry of a layer: a directory, or a file or whiteout, of which the mode is 0.
type scripted struct {
	path string
	mode uint32
	body string
}

// layersOf reads a script: a byte for each entry, 0xff between layers.
func layersOf(script []byte) (all [][]scripted) {
	for part := range bytes.SplitSeq(script, []byte{0xff}) {
		var layer []scripted
		for i, b := range part {
			dir := strings.Repeat("d/", int(b>>2&3))
			base := string("abd"[b>>4%3])
			layer = append(layer, []scripted{
				{path: dir + base, mode: 0o700 + uint32(i%8)},
				{path: dir + base, body: fmt.Sprint(len(all), i)},
				{path: dir + whiteout + base},
				{path: dir + whiteoutOpaque},
			}[b&3])
		}
		all = append(all, layer)
	}
	return all
}

func mergeAndCompare(t *testing.T, script []byte) {
	t.Helper()
	all := layersOf(script)
	tree := NewTree("", Limits{})
	defer tree.Close()
	for i, layer := range all {
		m := merge{t: tree, root: tree.root, layer: uint16(i + 1)}
		for _, s := range layer {
			e := &Entry{Path: s.path, Mode: initramfs.TypeFile | 0o644, Size: int64(len(s.body))}
			if s.mode != 0 {
				e.Mode = initramfs.TypeDir | s.mode
			}
			if err := tree.keep(e, []byte(s.body)); err != nil {
				t.Fatal(err)
			}
			if err := m.apply(e, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	err := tree.Walk(func(e *Entry) error {
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
		t.Errorf("layers %v\ngot  %q\nwant %q", all, got, want)
	}
}

// model applies layers as the specification puts it: first everything that a layer hides goes from the layers
// below, then what it has is put in.
func model(all [][]scripted) (lines []string) {
	type node struct {
		mode uint32 // 0 is a file
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
			dir, base := path.Split(e.path)
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
			name := e.path
			if strings.HasPrefix(path.Base(name), ".wh.") {
				continue
			}
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if n, ok := tree[dir]; !ok || n.mode == 0 {
					tree[dir] = node{mode: 0o755}
				}
			}
			if old, ok := tree[name]; e.mode == 0 || ok && old.mode == 0 {
				remove(name)
			}
			if e.mode != 0 {
				tree[name] = node{mode: e.mode}
			} else {
				tree[name] = node{body: e.body}
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
