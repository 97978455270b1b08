package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
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
		if _, err := names(broken); err != nil &&
			bytes.Contains([]byte(err.Error()), []byte("has several names")) {
			looped = broken
		}
	}
	if looped == nil {
		t.Error("no directory inside of itself was refused")
	}
}

// sharedNames is an erofs image whose directories share their blocks: each of them has all files, which are
// one. The file has space for attributes at the offset.
func sharedNames(directories, files int) (image []byte, attributes int) {
	const block, inodes, file = 4096, 2, 1
	le := binary.LittleEndian
	first := file + 1 + 70*block/32 // the first directory
	b := make([]byte, (inodes+1)*block+32*(first+directories))
	b = append(b, make([]byte, -len(b)&(block-1))...)
	super := b[erofsSuper:]
	le.PutUint32(super, erofsMagic)
	super[12] = 12
	le.PutUint32(super[40:], inodes)
	inode := func(nid int, mode uint16, size, start int) {
		i := b[inodes*block+32*nid:]
		le.PutUint16(i[4:], mode)
		le.PutUint32(i[8:], uint32(size))
		le.PutUint32(i[16:], uint32(start/block))
	}
	list := func(names int, nid func(int) int) (size, start int) {
		start = len(b)
		for next := 0; next < names; {
			n := min(names-next, 200)
			page := make([]byte, block)
			for k := range n {
				le.PutUint64(page[12*k:], uint64(nid(next+k)))
				le.PutUint16(page[12*k+8:], uint16(12*n+6*k))
				copy(page[12*n+6*k:], fmt.Sprintf("%06d", next+k))
			}
			b, next = append(b, page...), next+n
		}
		return len(b) - start, start
	}
	size, start := list(directories, func(k int) int { return first + k })
	inode(0, 0o040755, size, start)
	inode(file, 0o100644, 0, 0)
	size, start = list(files, func(int) int { return file })
	for k := range directories {
		inode(first+k, 0o040755, size, start)
	}
	return b, inodes*block + 32*(file+1)
}

// TestErofsBounds lists images that are small and have many names, attributes or bytes.
func TestErofsBounds(t *testing.T) {
	for _, c := range []struct {
		name               string
		directories, files int
		attribute          string
		shared             int
		want               string
	}{
		{"40,200 names", 200, 200, "", 0, ""},
		{"1,001,000 names", 1000, 1000, "", 0, "more than 50000 names"},
		{"many attributes", 100, 100, "\x00\x01\x00\x00", 0, "more than 50000 names"},
		{"many shared attributes", 40, 40, "", 200, "more than 50000 names"},
		{"large attributes", 100, 100, "\x00\x01\xf4\xff" + strings.Repeat("\x00", 0xfff4), 0,
			"more than 12800000 bytes"},
	} {
		b, at := sharedNames(c.directories, c.files)
		if c.attribute != "" {
			const size = 3 * 0xfff8
			copy(b[at+12:], strings.Repeat(c.attribute, size/len(c.attribute)))
			binary.LittleEndian.PutUint16(b[at-30:], size/4+1)
		}
		if c.shared > 0 { // all of them at byte 0, of which the first four are zero: no name, no value
			b[at+4] = byte(c.shared)
			binary.LittleEndian.PutUint16(b[at-30:], uint16(c.shared)+1)
		}
		i, err := openErofs(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if i.most != erofsMaxNames {
			t.Fatalf("%d names can be read", i.most)
		}
		i.most = 50_000
		n := 0
		err = i.walk(func(*node) error { n++; return nil })
		switch {
		case c.want == "" && (err != nil || n != c.directories*(c.files+1)):
			t.Errorf("%s: %d names, %v", c.name, n, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || n > 50_000):
			t.Errorf("%s in %d bytes: %d names, %v", c.name, len(b), n, err)
		}
	}
}

// noTools fails the test if a program is run.
type noTools struct{ t *testing.T }

func (n noTools) Work(context.Context) (string, error) { return os.MkdirTemp(n.t.TempDir(), "") }
func (n noTools) Run(context.Context, string, ...string) error {
	n.t.Error("the files are extracted")
	return nil
}

// TestErofsTooLarge has an image of 20 names of one file of 4 GiB, which would be extracted 20 times.
func TestErofsTooLarge(t *testing.T) {
	b, at := sharedNames(1, 20)
	binary.LittleEndian.PutUint32(b[at-32+8:], 1<<32-1)
	f, size := enclaves.Write(t, []enclaves.Section{
		{Type: eif.Kernel, Content: []byte("kernel")}, {Type: eif.Cmdline, Content: []byte("x=y")},
		{Type: eif.Meta, Content: []byte("{}")},
		{Type: eif.Ramdisk, Content: enclaves.CPIO(enclaves.Dir("neb"),
			enclaves.File("neb/root.0", string(b)))},
	})
	file, err := eif.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	files := erofsFiles(t.Context(), noTools{t}, newWalker(file), file.All(eif.Ramdisk)[0])
	err = files(func(*node, digest) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "more than 68719476736 bytes") {
		t.Errorf("found %v", err)
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
