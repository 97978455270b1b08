package inspect

import (
	"bytes"
	"compress/gzip"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// TestInflatedBound reads two compressed ramdisks, with room for both, and for one and a half.
func TestInflatedBound(t *testing.T) {
	archive := enclaves.CPIO(enclaves.File("a", strings.Repeat("a", 100_000)))
	other := enclaves.CPIO(enclaves.File("b", strings.Repeat("b", 100_000)))
	zipped := func(b []byte) enclaves.Section {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return enclaves.Section{Type: eif.Ramdisk, Content: out.Bytes()}
	}
	f, size := enclaves.Write(t, []enclaves.Section{
		{Type: eif.Kernel, Content: []byte("kernel")}, {Type: eif.Cmdline, Content: []byte("x=y")},
		zipped(archive), zipped(other), {Type: eif.Meta, Content: []byte("{}")},
	})
	file, err := eif.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	for left, want := range map[int64]string{210_000: "", 150_000: "bytes, decompressed"} {
		r := newReader(file)
		if r.left != image.DefaultLimits.Bytes {
			t.Fatalf("the limit is %d bytes", r.left)
		}
		r.left = left
		var err error
		for _, s := range file.All(eif.Ramdisk) {
			if err == nil {
				err = r.read(s, func(*initramfs.Header) error { return nil })
			}
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("room for %d bytes: %v", left, err)
		}
	}
}

// TestDiffBound compares trees of many names that have few, many and too many in common.
func TestDiffBound(t *testing.T) {
	names := func(from, to int, mode uint32, times int) tree {
		return func(use func(*node, digest) error) error {
			for range times {
				for i := from; i < to; i++ {
					if err := use(&node{path: strconv.Itoa(i), mode: mode}, digest{}); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}
	if maxAlone != 262_144 {
		t.Errorf("the limit is %d names", maxAlone)
	}
	before := maxAlone
	t.Cleanup(func() { maxAlone = before })
	maxAlone = 3000
	const file, dir = initramfs.TypeFile, initramfs.TypeDir
	for _, c := range []struct {
		name string
		a, b tree
		says int
		want string
	}{
		{"the same", names(0, 2*maxAlone, file, 1), names(0, 2*maxAlone, file, 1), 0, ""},
		{"nothing in common", names(0, maxAlone, file, 1), names(maxAlone, 2*maxAlone, file, 1), 2 * maxAlone,
			""},
		{"too many", names(0, maxAlone+1, file, 1), names(maxAlone+1, maxAlone+9, file, 1), 0,
			"more than 3000 names of the first file"},
		{"too many directories twice", names(0, maxAlone+1, dir, 2), names(0, maxAlone+1, dir, 2), 0,
			"more than 3000 directories twice"},
	} {
		says := 0
		_, err := diffTrees(c.a, c.b, func(string, string) { says++ })
		if says != c.says || c.want == "" && err != nil || c.want != "" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d differences, %v", c.name, says, err)
		}
	}
}
