package inspect

import (
	"bytes"
	"compress/gzip"
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
