package inspect_test

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// TestMemoryOfNames counts what is allocated for each name in a ramdisk: a small one can have millions.
func TestMemoryOfNames(t *testing.T) {
	const count, most = 20_000, 4 << 10
	entries := []enclaves.Entry{dir("rootfs")}
	for i := range count {
		entries = append(entries, reg(fmt.Sprintf("rootfs/%d", i), ""))
	}
	second := append(cpio(entries...), 0, 0, 0, 0)
	a, size := enclaves.Write(t, parts(part(eif.Ramdisk, cpio(entries...))))
	b, sizeB := enclaves.Write(t, parts(part(eif.Ramdisk, second)))
	fa, errA := eif.Open(a, size)
	fb, errB := eif.Open(b, sizeB)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	for name, f := range map[string]func() error{
		"inspect": func() error { _, err := inspect.Inspect(t.Context(), a, size, noon); return err },
		"list":    func() error { return inspect.ListRamdisks(t.Context(), fa, io.Discard) },
		"diff":    func() error { return inspect.Diff(t.Context(), fa, fb, nil, func(inspect.Difference) {}) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := f(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / count; each > most {
			t.Errorf("%s: %d bytes for each of %d names, expected at most %d", name, each, count, most)
		}
	}
}
