package inspect_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// TestMemoryOfNames counts what is allocated for each name in a ramdisk, in bytes and in objects: a small one
// can have millions. It also counts how often a file is read.
func TestMemoryOfNames(t *testing.T) {
	const count, most, mostObjects, mostReads = 20_000, 1500, 10, 3
	entries := []enclaves.Entry{dir("rootfs")}
	for i := range count {
		entries = append(entries, reg(fmt.Sprintf("rootfs/%d", i), ""))
	}
	second := append(cpio(entries...), 0, 0, 0, 0)
	a, size := enclaves.Write(t, parts(part(eif.Ramdisk, cpio(entries...))))
	b, sizeB := enclaves.Write(t, parts(part(eif.Ramdisk, second)))
	in := &counted{ReaderAt: a}
	fa, errA := eif.Open(in, size)
	fb, errB := eif.Open(b, sizeB)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	for name, f := range map[string]func() error{
		"inspect": func() error { _, err := inspect.Inspect(t.Context(), in, size, noon); return err },
		"list":    func() error { return inspect.ListRamdisks(t.Context(), fa, io.Discard) },
		"diff": func() error {
			return inspect.Diff(t.Context(), fa, fb, nil, func(inspect.Difference) {})
		},
	} {
		var before, after runtime.MemStats
		in.bytes.Store(0)
		runtime.ReadMemStats(&before)
		if err := f(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / count; each > most {
			t.Errorf("%s: %d bytes for each of %d names, expected at most %d", name, each, count, most)
		}
		if each := (after.Mallocs - before.Mallocs) / count; each > mostObjects {
			t.Errorf("%s: %d objects for each of %d names, expected at most %d", name, each, count,
				mostObjects)
		}
		if n := in.bytes.Load(); n > mostReads*size {
			t.Errorf("%s: read %d bytes of %d, expected at most %d times as many", name, n, size, mostReads)
		}
	}
}

// TestRamdisksAreReadOnce compares files with as many ramdisks as fit, each of which is unpacked over those
// before it.
func TestRamdisksAreReadOnce(t *testing.T) {
	file := func(content string) (*counted, *eif.File, int64) {
		all := parts()
		for len(all) < eif.MaxSections {
			file := reg(fmt.Sprintf("neb/%d", len(all)), strings.Repeat(content, 10_000))
			all = append(all, part(eif.Ramdisk, cpio(dir("neb"), file)))
		}
		in, size := enclaves.Write(t, all)
		c := &counted{ReaderAt: in}
		f, err := eif.Open(c, size)
		if err != nil {
			t.Fatal(err)
		}
		return c, f, size
	}
	in, a, size := file("a")
	_, b, _ := file("b")
	differences := 0
	in.bytes.Store(0)
	err := inspect.Diff(t.Context(), a, b, nil, func(inspect.Difference) { differences++ })
	if n := in.bytes.Load(); err != nil || differences != eif.MaxSections-5 || n > 4*size {
		t.Errorf("diff: %d differences, %d bytes read of %d (%v)", differences, n, size, err)
	}
}

// counted counts the bytes that are read.
type counted struct {
	io.ReaderAt
	bytes atomic.Int64
}

func (c *counted) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, at)
	c.bytes.Add(int64(n))
	return n, err
}
