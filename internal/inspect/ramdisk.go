package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
)

// plainMagic is how a newc archive starts.
const plainMagic = "0707"

// openRamdisk opens what is in a ramdisk section, which may be compressed.
func openRamdisk(f *eif.File, s eif.Section) (io.Reader, error) {
	content := f.Content(s)
	in, err := compression.Open(content, s.Size)
	if in != nil || err != nil {
		return in, err
	}
	if !isPlain(f, s) {
		return nil, errors.New("neither a newc archive nor compressed in a format that the kernel reads")
	}
	return content, nil
}

// isPlain reports whether a ramdisk is an archive without compression.
func isPlain(f *eif.File, s eif.Section) bool {
	head := make([]byte, len(plainMagic))
	n, _ := f.Content(s).ReadAt(head, 0)
	return string(head[:n]) == plainMagic
}

// WalkRamdisks calls use for each entry of all ramdisks, with a reader of the entry's content. It fails at
// the first thing that the kernel may read in another way, or unpack elsewhere.
func WalkRamdisks(
	f *eif.File, use func(i int, h *initramfs.Header, body *initramfs.Reader) error,
) error {
	r := initramfs.NewReader(nil)
	for i, s := range f.All(eif.Ramdisk) {
		if err := readRamdisk(r, f, s, func(h *initramfs.Header) error { return use(i, h, r) }); err != nil {
			return fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return nil
}

// walkRamdisk is WalkRamdisks for one ramdisk. It reads those before it too, into whose tree it is unpacked.
func walkRamdisk(f *eif.File, s eif.Section, use func(*initramfs.Header, *initramfs.Reader) error) error {
	r := initramfs.NewReader(nil)
	for i, earlier := range f.All(eif.Ramdisk) {
		if earlier == s {
			return readRamdisk(r, f, s, func(h *initramfs.Header) error { return use(h, r) })
		}
		if err := readRamdisk(r, f, earlier, func(*initramfs.Header) error { return nil }); err != nil {
			return fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return nil
}

func readRamdisk(r *initramfs.Reader, f *eif.File, s eif.Section, use func(*initramfs.Header) error) error {
	in, err := openRamdisk(f, s)
	if err != nil {
		return err
	}
	r.Continue(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = use(h)
		}
		if err != nil {
			return err
		}
	}
}

// maxForeign is the largest number of foreign names that are listed.
const maxForeign = 20

// foreignNames lists the names in the ramdisks after the first that do not belong there. The kernel unpacks
// one ramdisk over the other, so that a later one can replace PID 1 and the driver that PCR1 measures, and
// PCR1 would identify nothing. It counts what all ramdisks need to be unpacked.
func foreignNames(ctx context.Context, f *eif.File) (found []string, u preflight.Usage, err error) {
	check := func(i int, h *initramfs.Header) {
		switch {
		case i == 0 || len(found) > maxForeign || contract.Belongs(path.Clean("/"+h.Name), false):
		case len(found) == maxForeign:
			found = append(found, "and more")
		default:
			found = append(found, fmt.Sprintf("ramdisk %d: %q does not belong there: the kernel unpacks it "+
				"over the first ramdisk", i, h.Name))
		}
	}
	r := initramfs.NewReader(nil)
	for i, s := range f.All(eif.Ramdisk) {
		u.Ramdisks += s.Size
		err := readRamdisk(r, f, s, func(h *initramfs.Header) error {
			u.Entry(h.Mode, h.Size)
			check(i, h)
			return context.Cause(ctx)
		})
		var refused *initramfs.RefusedError
		if errors.As(err, &refused) {
			check(i, refused.Header)
		}
		if err != nil {
			return found, u, fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return found, u, nil
}
