package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

var marker = &image.Marker{Path: "neb/complete", Content: "done\n", ModTime: 7}

// ramdisk makes a ramdisk of an image at a prefix.
func ramdisk(t testing.TB, ref, prefix string, o image.Ramdisk) ([]byte, error) {
	t.Helper()
	tree := newTree(t, image.Limits{})
	if err := addImage(t, tree, ref, prefix); err != nil {
		return nil, err
	}
	return writeRamdisk(t, tree, o)
}

// addImage opens an image and adds it to a tree.
func addImage(t testing.TB, tree *image.Tree, ref, prefix string) error {
	t.Helper()
	img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64", TempDir: t.TempDir()})
	if err != nil {
		return err
	}
	tree.CloseLater(img)
	return tree.AddImage(t.Context(), img, prefix)
}

// writeRamdisk writes a ramdisk to memory, and to a file, where the kernel copies large bodies.
func writeRamdisk(t testing.TB, tree *image.Tree, o image.Ramdisk) ([]byte, error) {
	t.Helper()
	var b bytes.Buffer
	if err := tree.WriteRamdisk(&b, o); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "ramdisk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := tree.WriteRamdisk(f, o); err != nil {
		return nil, err
	}
	if again, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(again, b.Bytes()) {
		t.Errorf("a ramdisk written to a file differs from one written to memory (%v)", err)
	}
	return b.Bytes(), nil
}

// layoutOf is the reference of an OCI layout with one image.
func layoutOf(t testing.TB, layers [][]byte, ways ...Compression) string {
	t.Helper()
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers, ways...), "")
	return "oci:" + l.Dir()
}

func TestPuzzles(t *testing.T) {
	for _, p := range Puzzles {
		t.Run(p.Name, func(t *testing.T) {
			b, err := ramdisk(t, layoutOf(t, p.Archives(t), Gzip, Plain, Zstd), "", image.Ramdisk{})
			if err != nil {
				t.Fatal(err)
			}
			Compare(t, List(t, b), p.Want)
		})
	}
}

// TestMarkerInTheTree merges images that have entries in the place of the marker.
func TestMarkerInTheTree(t *testing.T) {
	for _, c := range []struct {
		name, want string
		entry      Entry
	}{
		{"a file", "neb: found mode 100644, expected a directory or nothing", File("neb", "1")},
		{"a symbolic link", "neb: found mode 120777, expected a directory or nothing", Symlink("neb", "etc")},
		{"the marker itself", "neb/complete: omitted: the last entry of the ramdisk has this name",
			File("neb/complete", "not at all")},
		{"the marker as a directory", "neb/complete: omitted: the last entry", File("neb/complete/x", "1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref := layoutOf(t, Layers(t, []Entry{c.entry}), Gzip)
			if _, err := ramdisk(t, ref, "", image.Ramdisk{Marker: marker}); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := ramdisk(t, ref, "", image.Ramdisk{}); err != nil {
				t.Errorf("without a marker: %v", err)
			}
			b, err := ramdisk(t, ref, "rootfs/", image.Ramdisk{Marker: marker})
			if err != nil {
				t.Fatalf("with a prefix: %v", err)
			}
			if !bytes.Contains(b[len(b)-400:], []byte("neb/complete\x00")) {
				t.Error("the marker is not at the end")
			}
		})
	}
}

// TestLost has attributes and a file that a ramdisk cannot hold.
func TestLost(t *testing.T) {
	ref := layoutOf(t, Layers(t, []Entry{File("ping", "x").With(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20"}
	}), Link("pong", "ping"), File("fine", "")}), Gzip)
	if _, err := ramdisk(t, ref, "", image.Ramdisk{}); err == nil ||
		!strings.Contains(err.Error(), "ping: extended attribute security.capability") {
		t.Errorf("without Lost: %v", err)
	}
	var told []string
	lost := image.Ramdisk{Lost: func(path, what string) error {
		told = append(told, path+" "+what)
		return nil
	}}
	// written twice
	if _, err := ramdisk(t, ref, "", lost); err != nil || len(told) != 4 ||
		!strings.HasPrefix(told[1], "pong ") {
		t.Errorf("told of %q, %v", told, err)
	}

	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<32); err != nil { // a hole, which costs no space
		t.Fatal(err)
	}
	tree := newTree(t, image.Limits{})
	for name, file := range map[string]string{"big": big, "d/small": os.Args[0]} {
		if err := tree.PutFile(&image.Entry{Path: name, Mode: 0o100644}, file); err != nil {
			t.Fatal(err)
		}
	}
	told = nil
	b, err := writeRamdisk(t, tree, lost)
	if err != nil || len(told) != 2 || !strings.Contains(told[0], "big omitted: it has 4294967296 bytes") {
		t.Errorf("told of %q, %v", told, err)
	}
	if lines := List(t, b); len(lines) != 2 {
		t.Errorf("%d entries, want d and d/small", len(lines))
	}
	if _, err := writeRamdisk(t, tree, image.Ramdisk{}); err == nil ||
		!strings.Contains(err.Error(), "big: omitted: it has 4294967296 bytes") {
		t.Errorf("without Lost: %v", err)
	}
}

func TestRamdiskTimes(t *testing.T) {
	for _, c := range []struct {
		epoch *int64
		want  [3]uint32
	}{{nil, [3]uint32{7, 0, 1<<32 - 1}}, {new(int64), [3]uint32{}}, {&[]int64{5}[0], [3]uint32{5, 0, 5}}} {
		tree := newTree(t, image.Limits{})
		for i, at := range []int64{7, -1, 1 << 40} {
			if err := tree.Put(&image.Entry{Path: fmt.Sprint(i), Mode: 0o100644, ModTime: at},
				nil); err != nil {
				t.Fatal(err)
			}
		}
		b, err := writeRamdisk(t, tree, image.Ramdisk{Epoch: c.epoch})
		if err != nil {
			t.Fatal(err)
		}
		if got := times(t, b); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("epoch %v: times %d, want %d", c.epoch, got, c.want)
		}
	}
}

// times lists the modification times of an archive's entries.
func times(t testing.TB, b []byte) (all []uint32) {
	t.Helper()
	for in := initramfs.NewReader(bytes.NewReader(b)); ; {
		h, err := in.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.ModTime)
	}
}
