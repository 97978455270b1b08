package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"github.com/ulikunitz/xz"
)

// TestHostileLayers reads layers that must cause an error with their name, and leave no files.
func TestHostileLayers(t *testing.T) {
	plain := func(entries ...Entry) []byte { return Layer(t, entries...) }
	deep := strings.Repeat("d/", 2500)
	var wide bytes.Buffer
	x, err := xz.WriterConfig{DictCap: 64 << 20}.NewWriter(&wide)
	if err != nil {
		t.Fatal(err)
	}
	x.Close()
	var labels []Entry
	for i := range 35 {
		labels = append(labels, File(fmt.Sprint(i), "").With(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 1_000_000)}
		}))
	}
	for _, c := range []struct {
		name   string
		layers [][]byte
		limits image.Limits
		want   []string
	}{
		{"dots lead out", [][]byte{plain(File("../../etc/x", "1"))}, image.Limits{}, []string{"layer 1 of 1 (sha256:", `"../../etc/x"`, "lead out"}},
		{"dots lead nowhere", [][]byte{plain(Dir("a/", 0o755), File("a/../b", "1"))}, image.Limits{}, []string{`"a/../b"`}},
		{"a hard link leads out", [][]byte{plain(Link("x", "../../etc/passwd"))}, image.Limits{}, []string{`"x"`, `"../../etc/passwd"`}},
		{"a whiteout of the parent", [][]byte{plain(File("a/.wh...", ""))}, image.Limits{}, []string{`invalid whiteout of ".."`}},
		{"a whiteout of itself", [][]byte{plain(File("a/.wh..", ""))}, image.Limits{}, []string{`invalid whiteout of "."`}},
		{"a whiteout of nothing", [][]byte{plain(File("a/.wh.", ""))}, image.Limits{}, []string{`invalid whiteout of ""`}},
		{"a loop of links", [][]byte{plain(Symlink("a", "b"), Symlink("b", "a"), File("a/x", "1"))}, image.Limits{}, []string{`"a/x"`, "symbolic links"}},
		{"a link to itself", [][]byte{plain(Symlink("a", "a"), File("a/x", "1"))}, image.Limits{},
			[]string{"symbolic links"}},
		{"a link that grows", [][]byte{plain(Symlink("a", "a/a/a/a"), File("a/x", "1"))}, image.Limits{},
			[]string{"symbolic links"}},
		{"hard links in a ring", [][]byte{plain(Link("a", "b"), Link("b", "a"))}, image.Limits{},
			[]string{"neither before it in this layer nor"}},
		{"a hard link before its target", [][]byte{plain(Link("a", "b"), File("b", "1"))}, image.Limits{}, []string{`"a"`, `hard link to "b"`, "neither before it in this layer nor"}},
		{"a hard link to itself", [][]byte{plain(File("a", "1"), Link("a", "./a"))}, image.Limits{},
			[]string{"itself"}},
		{"a hard link to a directory", [][]byte{plain(Dir("d/", 0o755), Link("a", "d"))}, image.Limits{},
			[]string{"is a directory"}},
		{"a hard link to what is hidden", [][]byte{plain(File("t", "1")), plain(File(".wh.t", "")),
			plain(Link("a", "t"))}, image.Limits{},
			[]string{"layer 3 of 3", "neither before it in this layer nor"}},
		{"a hard link to what aufs linked", [][]byte{plain(File(".wh..wh.plnk/1", "1"), Link("a", ".wh..wh.plnk/1"))}, image.Limits{}, []string{"layer 1 of 1", `hard link to ".wh..wh.plnk/1"`, "neither before it in this layer nor"}},
		{"a root that is a file", [][]byte{plain(File(".", "1"))}, image.Limits{}, []string{"root"}},
		{"a symbolic link to nothing", [][]byte{plain(Symlink("a", ""))}, image.Limits{}, []string{`"a"`, "expected 1 to 4095 bytes"}},
		{"a long symbolic link", [][]byte{plain(Symlink("a", deep))}, image.Limits{}, []string{`"a"`, "4095"}},
		{"a long path", [][]byte{plain(File(deep+"x", ""))}, image.Limits{}, []string{"5001 bytes"}},
		{"a long name", [][]byte{plain(File(strings.Repeat("x", 256), ""))}, image.Limits{},
			[]string{"256 bytes"}},
		{"an owner below zero", [][]byte{plain(File("a", "").With(func(h *tar.Header) {
			h.Uid = -1
			h.Format = tar.FormatGNU
		}))}, image.Limits{}, []string{"owner -1"}},
		{"an owner too high", [][]byte{plain(File("a", "").With(func(h *tar.Header) { h.Gid = 1<<32 - 1 }))},
			image.Limits{}, []string{"group 4294967295"}},
		{"too many entries", [][]byte{plain(File("a", ""), File("b", ""), File("c", ""))},
			image.Limits{Entries: 2}, []string{"more than 2 entries"}},
		{"too many entries of one name", [][]byte{plain(slices.Repeat([]Entry{File("a", "")}, 9)...)},
			image.Limits{Entries: 8}, []string{"entry 9: found more than 8 entries"}},
		{"too many whiteouts", [][]byte{plain(slices.Repeat([]Entry{File(".wh.a", "")}, 5)...),
			plain(slices.Repeat([]Entry{File(".wh.a", "")}, 5)...)}, image.Limits{Entries: 8},
			[]string{"of 2 (sha256:", "more than 8 entries"}},
		{"too long attributes", [][]byte{plain(labels...)}, image.Limits{Entries: 100}, []string{`"32"`, "bytes of names, links and attributes"}},
		{"too many bytes", [][]byte{plain(File("a", strings.Repeat("x", 1<<20)))},
			image.Limits{Bytes: 1 << 19}, []string{"more than 524288 bytes"}},
		{"no archive at all", [][]byte{bytes.Repeat([]byte("x"), 5000)}, image.Limits{},
			[]string{"entry 1", "invalid tar header"}},
		{"xz with a large dictionary", [][]byte{wide.Bytes()}, image.Limits{},
			[]string{"more than 33554432 bytes of dictionary for an xz archive"}},
		{"bzip2", [][]byte{append([]byte("BZh"), make([]byte, 2000)...)}, image.Limits{},
			[]string{"unsupported compression bzip2: expected gzip, zstd, xz or none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLayout(t)
			l.Name(l.Image("amd64", c.layers, Plain, Gzip), "")
			rejected(t, "oci:"+l.Dir(), c.limits, c.want...)
		})
	}
}

// rejected merges an image, and expects an error that contains all of want, and an empty directory
// afterwards.
func rejected(t *testing.T, ref string, limits image.Limits, want ...string) {
	t.Helper()
	work := t.TempDir()
	img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	tree := image.NewTree(work, limits)
	err = tree.AddImage(t.Context(), img, "")
	tree.Close()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\ndoes not say %q", err, w)
		}
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestDamagedLayers cuts, changes and swaps what is stored.
func TestDamagedLayers(t *testing.T) {
	layer := Layer(t, File("a", strings.Repeat("abc", 1000)), File("b", strings.Repeat("x", 100_000)))
	for _, way := range []Compression{Plain, Gzip, Zstd, Xz} {
		packed := way.Pack(t, layer)
		flipped := bytes.Clone(packed)
		flipped[len(flipped)/2] ^= 1
		head, tail := bytes.Clone(packed), bytes.Clone(packed)
		head[0] ^= 1
		tail[len(tail)-1] ^= 1
		for name, blob := range map[string][]byte{
			"the first bit changed": head,
			"the last bit changed":  tail,
			"cut":                   packed[:len(packed)/2],
			"cut by a byte":         packed[:len(packed)-1],
			"empty":                 {},
			"a bit changed":         flipped,
			"more after it":         append(bytes.Clone(packed), "more"...),
		} {
			t.Run(fmt.Sprintf("%s, %s", name, way[len("application/vnd.oci.image.layer.v1."):]),
				func(t *testing.T) {
					l := NewLayout(t)
					d := l.Image("amd64", [][]byte{layer}, way)
					l.Pieces["blobs/sha256/"+Digest(packed)[len("sha256:"):]] = blob
					l.Name(d, "")
					rejected(t, "oci:"+l.Dir(), image.Limits{}, "layer 1 of 1 ("+Digest(packed)+
						"): digest is "+Digest(blob)+", expected "+Digest(packed))
				})
		}
	}
	// The blob is as its digest says, but not what the configuration has.
	l := NewLayout(t)
	l.Name(l.Manifest(l.JSON("c", Config("amd64", [][]byte{layer})),
		[]Descriptor{l.Blob(string(Gzip), Gzip.Pack(t, Layer(t, File("evil", "1"))))}), "")
	rejected(t, "oci:"+l.Dir(), image.Limits{}, "diff ID is sha256:", ", expected "+Digest(layer))
}

// TestBomb inflates a few kilobytes to more than the limit, and must stop there.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "bomb", Mode: 0o644, Size: 1 << 30,
		Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	head := bytes.Clone(b.Bytes())
	for _, way := range []Compression{Gzip, Zstd, Xz} {
		bomb := way.Pack(t, append(head, make([]byte, 16<<20)...))
		l := NewLayout(t)
		l.Name(l.Manifest(l.JSON("c", Config("amd64", [][]byte{nil})),
			[]Descriptor{l.Blob(string(way), bomb)}), "")
		rejected(t, "oci:"+l.Dir(), image.Limits{Bytes: 8 << 20}, "more than 8388608 bytes, decompressed")
	}
	// A sparse file of a terabyte is a few hundred bytes of tar.
	sparse := Layer(t, Sparse("sparse", "data", 1<<40))
	l := NewLayout(t)
	l.Name(l.Image("amd64", [][]byte{sparse}, Plain), "")
	rejected(t, "oci:"+l.Dir(), image.Limits{}, "more than 68719476736 bytes")
}

func TestSparse(t *testing.T) {
	for _, way := range []Compression{Plain, Gzip} {
		tree := newTree(t, image.Limits{})
		ref := layoutOf(t, Layers(t, []Entry{File("before", "1")},
			[]Entry{Sparse("sparse", "data", 100_000)}), way)
		if err := addImage(t, tree, ref, ""); err != nil {
			t.Fatal(err)
		}
		e, ok := tree.Lookup("sparse")
		if !ok {
			t.Fatal("no file sparse")
		}
		var body bytes.Buffer
		_, err := tree.CopyBody(&body, e)
		b := body.Bytes()
		if err != nil || len(b) != 100_000 || string(b[:5]) != "data\x00" ||
			bytes.Trim(b[4:], "\x00") != nil && len(bytes.Trim(b[4:], "\x00")) > 0 {
			t.Errorf("%s: %d bytes, %q…, %v", way, len(b), b[:min(5, len(b))], err)
		}
	}
}

// TestCancelled cancels between opening an image and reading its layers.
func TestCancelled(t *testing.T) {
	ref := layoutOf(t, Layers(t, []Entry{File("a", strings.Repeat("x", 4<<20))}), Gzip)
	img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newTree(t, image.Limits{}).AddImage(ctx, img, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
