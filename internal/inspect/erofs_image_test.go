package inspect

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestErofsBroken reads an image with each of its bytes changed: it may say anything of it, and comes to an
// end.
func TestErofsBroken(t *testing.T) {
	require.Command(t, "mkfs.erofs")
	dir := t.TempDir()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := os.MkdirAll(filepath.Join(tree, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Join(tree, "a/link")); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("mkfs.erofs", "-T0", image, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	names := func(b []byte) (n int, err error) {
		i, err := openErofs(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			err = i.walk(func(*node) error { n++; return nil })
		}
		return n, err
	}
	if n, err := names(whole); n != 3 || err != nil {
		t.Fatalf("the image itself has %d names (%v)", n, err)
	}
	for at := range whole {
		for _, with := range []byte{0, 1, 0x7f, 0xff, whole[at] ^ 2} {
			broken := bytes.Clone(whole)
			broken[at] = with
			names(broken)
		}
	}
	for n := range 1152 {
		if _, err := names(whole[:n]); err == nil {
			t.Errorf("%d bytes are an image", n)
		}
	}
	// A directory inside of itself: its second name has the number of the first, which is its own.
	i, err := openErofs(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	var looped []byte
	for at := 1152; at+8 < len(whole); at++ {
		broken := bytes.Clone(whole)
		copy(broken[at:], []byte{byte(i.root), byte(i.root >> 8), 0, 0, 0, 0, 0, 0})
		if _, err := names(broken); err != nil && bytes.Contains([]byte(err.Error()), []byte("has several names")) {
			looped = broken
		}
	}
	if looped == nil {
		t.Error("no directory inside of itself was refused")
	}
}

// TestDifferenceOfUnreadable: what cannot be read is no difference.
func TestDifferenceOfUnreadable(t *testing.T) {
	broken := errors.New("broken disk")
	for _, streams := range [][2]io.Reader{
		{strings.NewReader("same"), io.MultiReader(strings.NewReader("same"), iotest.ErrReader(broken))},
		{io.MultiReader(strings.NewReader("same"), iotest.ErrReader(broken)), strings.NewReader("same")},
	} {
		if _, err := firstDifference(streams[0], streams[1]); !errors.Is(err, broken) {
			t.Errorf("found %v", err)
		}
	}
}
