package image

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// linear fails the test if f takes much longer for n than eight times its time for n/8: eight is linear, 64
// quadratic. The fastest of several runs count; a busy machine needs more of them.
func linear(t *testing.T, n int, f func(n int)) {
	t.Helper()
	few, many := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for runs := range 20 {
		began := time.Now()
		f(n / 8)
		few, began = min(few, time.Since(began)), time.Now()
		f(n)
		many = min(many, time.Since(began))
		if runs >= 3 && many/32 <= few {
			return
		}
	}
	t.Errorf("%d entries took %v, %d took %v", n/8, few, n, many)
}

// TestAlternating replaces a directory by a file and back, and hides and brings names, again and again. What
// goes must cost nothing afterwards.
func TestAlternating(t *testing.T) {
	for _, c := range []struct {
		name  string
		layer func(i int) (uint16, string)
	}{
		{"directory and file", func(i int) (uint16, string) { return 1, []string{"d/x", "d"}[i%2] }},
		{"deep directory and file", func(i int) (uint16, string) {
			return 1, []string{"d/x/y/z", "d", "d/x", "d/x/y", "d"}[i%5]
		}},
		{"whiteout", func(i int) (uint16, string) {
			return uint16(1 + i/2%60_000), []string{"d/x", "d/.wh.x"}[(i+i/2)%2]
		}},
		{"opaque", func(i int) (uint16, string) {
			return uint16(1 + i/3%60_000), []string{"d/.wh..wh..opq", "d/x", "d/y"}[i%3]
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			linear(t, 32_000, func(n int) {
				tree := NewTree(t.TempDir(), Limits{})
				defer tree.Close()
				for i := range n {
					layer, path := c.layer(i)
					m := merge{t: tree, root: tree.root, layer: layer}
					if err := m.apply(&Entry{Path: path, Mode: initramfs.TypeFile | 0o644}, ""); err != nil {
						t.Fatal(err)
					}
				}
				if len(tree.index) > 10 {
					t.Errorf("the index has %d names, expected a handful", len(tree.index))
				}
			})
		})
	}
}

// TestManyGone hides all of a large directory name by name, which must not look through its others each time.
func TestManyGone(t *testing.T) {
	linear(t, 32_000, func(n int) {
		tree := NewTree(t.TempDir(), Limits{})
		defer tree.Close()
		for i := range 2 * n {
			path := fmt.Sprintf("d/%d", i)
			if i >= n {
				path = fmt.Sprintf("d/.wh.%d", i-n)
			}
			m := merge{t: tree, root: tree.root, layer: uint16(1 + i/n)}
			if err := m.apply(&Entry{Path: path, Mode: initramfs.TypeFile | 0o644}, ""); err != nil {
				t.Fatal(err)
			}
		}
		names := 0
		if err := tree.Walk(func(*Entry) error { names++; return nil }); err != nil || names != 1 {
			t.Errorf("%d names are left (%v), want d alone", names, err)
		}
	})
}

// TestSameKeys has so many names in a directory that some share a key of the index, and removes them in
// another order.
func TestSameKeys(t *testing.T) {
	const n = 300_000 // 10 pairs of equal 32-bit hashes are expected, and none once in 30,000 runs
	tree := NewTree(t.TempDir(), Limits{})
	defer tree.Close()
	m := merge{t: tree, root: tree.root, layer: 1}
	name := func(i int) string { return fmt.Sprintf("d/%d", i) }
	for i := range n {
		if err := m.put(&Entry{Path: name(i), Mode: initramfs.TypeFile, UID: uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	shared := 0
	for id := range tree.nodes.n {
		if tree.nodes.at(id).same != 0 {
			shared++
		}
	}
	if shared == 0 {
		t.Error("no names share a key")
	}
	for i := range n {
		if e, ok := tree.Lookup(name(i)); !ok || e.UID != uint32(i) {
			t.Fatalf("%s: found %v, %v", name(i), e, ok)
		}
	}
	for i := range n {
		if i = i * 7919 % n; i%2 == 0 {
			if err := tree.Remove(name(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range n {
		if _, ok := tree.Lookup(name(i)); ok != (i%2 == 1) {
			t.Fatalf("%s: found %v after half of the names were removed", name(i), ok)
		}
	}
	if len(tree.index) > n/2+1 {
		t.Errorf("the index has %d names, expected at most %d", len(tree.index), n/2+1)
	}
}

// TestLongLinks leads each entry through symbolic links whose targets are as long as they may be. What that
// may cost is counted, in bytes: a clock would measure the machine.
func TestLongLinks(t *testing.T) {
	const hops, target = maxHops - 1, 4000
	limits := Limits{Entries: 10_000}
	most := limits.links()/(hops*target) + 1
	for name, filler := range map[string]string{"dots": "./", "up and down": "a/../"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "dots" {
				t.Skip("looks up a million names, which takes most of a minute under the race detector; " +
					"dots are counted the same")
			}
			tree := NewTree(t.TempDir(), limits)
			defer tree.Close()
			m := merge{t: tree, root: tree.root, layer: 1}
			put := func(path, target string) error {
				e := &Entry{Path: path, Mode: initramfs.TypeFile | 0o644}
				if target != "" {
					e.Mode, e.Target = initramfs.TypeSymlink|0o777, target
				}
				return m.apply(e, "")
			}
			err := put("a/x", "")
			for i := range hops {
				err = errors.Join(err, put(fmt.Sprint(i), strings.Repeat(filler, target/len(filler))+
					fmt.Sprint(i+1)))
			}
			err = errors.Join(err, put(fmt.Sprint(hops, "/x"), ""))
			if err != nil {
				t.Fatal(err)
			}
			entries := int64(0)
			for ; entries <= most && err == nil; entries++ {
				err = put(fmt.Sprint("0/", entries), "")
			}
			if limit, ok := errors.AsType[*LimitError](err); !ok ||
				!strings.Contains(limit.What, "symbolic links") {
				t.Errorf("%d entries, %v, want that they lead through too long links", entries, err)
			}
			if entries < most/2 {
				t.Errorf("error after %d entries, expected it after %d, which follow as many bytes as the "+
					"limit", entries, most)
			}
		})
	}
}
