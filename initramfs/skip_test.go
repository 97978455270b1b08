package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

// TestSkip lists an archive with a large body from a reader that can seek, one that cannot, and one that only
// says so.
func TestSkip(t *testing.T) {
	var archive bytes.Buffer
	w := NewWriter(&archive)
	body := bytes.Repeat([]byte("x"), 1<<20+3)
	for _, name := range []string{"a", "b"} {
		if err := w.WriteHeader(&Header{Name: name, Mode: TypeFile | 0o644,
			Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	pipe, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	go func() {
		in.Write(archive.Bytes())
		in.Close()
	}()
	for name, r := range map[string]io.Reader{
		"seeking": bytes.NewReader(archive.Bytes()),
		"plain":   struct{ io.Reader }{bytes.NewReader(archive.Bytes())},
		"a pipe":  pipe,
	} {
		in := NewReader(r)
		for _, want := range []string{"a", "b"} {
			h, err := in.Next()
			if err != nil || h.Name != want || h.Size != int64(len(body)) {
				t.Fatalf("%s: %+v, %v", name, h, err)
			}
		}
		if _, err := in.Next(); err != io.EOF {
			t.Errorf("%s: %v at the end", name, err)
		}
	}
	cut := NewReader(bytes.NewReader(archive.Bytes()[:len(body)+len(body)/2]))
	for range 2 {
		if _, err := cut.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cut.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an archive that ends in a body: %v", err)
	}
}

// TestArchives reads two archives that follow each other: inode numbers start anew with each, and so the
// reader says which it is in.
func TestArchives(t *testing.T) {
	var both bytes.Buffer
	for _, name := range []string{"a", "b"} {
		w := NewWriter(&both)
		if err := w.WriteHeader(&Header{Name: name, Mode: TypeDir | 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&both)
	for _, name := range []string{"a", "b"} {
		h, err := r.Next()
		if err != nil || h.Name != name {
			t.Errorf("%v (%v), expected %s", h, err, name)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("%v at the end", err)
	}
}
