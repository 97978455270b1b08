package image_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// FuzzLayer reads any bytes as a layer. The result is an error, or a ramdisk that the independent reader
// takes.
func FuzzLayer(f *testing.F) {
	for _, p := range Puzzles {
		for _, entries := range p.Layers {
			f.Add(Layer(f, entries...))
		}
	}
	f.Add(Gzip.Pack(f, Layer(f, File("a", "b"))))
	f.Add(Zstd.Pack(f, Layer(f, File("a", "b"))))
	f.Add(Layer(f, Sparse("sparse", "data", 5000)))
	f.Fuzz(func(t *testing.T, layer []byte) {
		tree := image.NewTree(t.TempDir(), image.Limits{Entries: 1000, Bytes: 1 << 20})
		defer tree.Close()
		if tree.AddTarReader(t.Context(), bytes.NewReader(layer), "rootfs") != nil {
			return
		}
		var b bytes.Buffer
		ignore := func(string, string) error { return nil }
		if err := tree.WriteRamdisk(&b, image.Ramdisk{Marker: marker, Lost: ignore}); err != nil {
			// A path of the layer, or one through its symbolic links, may be too long with the prefix.
			// Nothing else is wrong.
			if !strings.Contains(err.Error(), "bytes, expected at most 4095") {
				t.Error(err)
			}
			return
		}
		lines := List(t, b.Bytes())
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "neb ") {
			t.Errorf("%q", lines)
		}
	})
}
