package stream

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContextEndsStreams(t *testing.T) {
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	r, w := Reader(ctx, strings.NewReader("abcdef")), Writer(ctx, io.Discard)
	if n, err := r.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Fatalf("read %d bytes and %v before the end of the context", n, err)
	}
	if n, err := w.Write([]byte("abc")); n != 3 || err != nil {
		t.Fatalf("wrote %d bytes and %v before the end of the context", n, err)
	}
	cancel(cause)
	if n, err := r.Read(make([]byte, 3)); n != 0 || err != cause {
		t.Errorf("read %d bytes and %v after the end of the context", n, err)
	}
	if n, err := w.Write([]byte("abc")); n != 0 || err != cause {
		t.Errorf("wrote %d bytes and %v after the end of the context", n, err)
	}
}

func TestReadFileLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abcd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 4); err != nil || string(b) != "abcd" {
		t.Errorf("limit of the file's size: %q, %v", b, err)
	}
	if _, err := ReadFile(path, 3); err == nil || !strings.Contains(err.Error(), "larger than 3 bytes") {
		t.Errorf("limit below the file's size: %v", err)
	}
}

func TestSHA256(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	// FIPS 180-2, appendix B.1.
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if sum, size, err := SHA256(context.Background(), path); sum != want || size != 3 || err != nil {
		t.Errorf("got %s, %d bytes, %v", sum, size, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := SHA256(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
}

// TestWriterReadsFrom copies more than the kernel does at once, from and to files.
func TestWriterReadsFrom(t *testing.T) {
	from, err := os.Create(filepath.Join(t.TempDir(), "from"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	const size = 2*interval + 3
	if err := from.Truncate(size); err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(filepath.Join(t.TempDir(), "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ctx, cancel := context.WithCancel(context.Background())
	w := Writer(ctx, to)
	if n, err := io.Copy(w, io.LimitReader(from, size-1)); n != size-1 || err != nil {
		t.Errorf("copied %d bytes and %v, want %d", n, err, size-1)
	}
	if n, err := io.Copy(w, from); n != 1 || err != nil {
		t.Errorf("copied %d bytes and %v, want the last one", n, err)
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(w, from); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("copied %d bytes and %v after the end of the context", n, err)
	}
}
