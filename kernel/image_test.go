package kernel

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// header is the header of an Image as Linux 6.12 links it.
func header() []byte {
	b := make([]byte, 80)
	copy(b, "MZ")
	copy(b[16:], "\x00\x00\xa0\x00") // image_size
	b[24] = 0x0a                     // flags: little-endian, 4 KiB pages, anywhere
	copy(b[56:], "ARM\x64")
	return b
}

func TestSetTextOffset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Image")
	before := header()
	if err := os.WriteFile(path, before, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 { // again does no harm
		if err := SetTextOffset(f); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(before)
	copy(want[8:], "\x00\x00\x20\x00\x00\x00\x00\x00")
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// deaf takes writes and does not keep them.
type deaf struct{ *bytes.Reader }

func (deaf) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestSetTextOffsetRefuses(t *testing.T) {
	compressed := header()
	copy(compressed[56:], "zimg")
	for _, test := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"a short file", header()[:40], "header of 64 bytes"},
		{"another image", compressed, "not an uncompressed arm64 kernel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := SetTextOffset(deaf{bytes.NewReader(test.image)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
