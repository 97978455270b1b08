package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

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

// walker reads ramdisks one after the other, each once.
type walker struct {
	*eif.File
	r    *initramfs.Reader
	next int   // the ramdisk that r reads next
	err  error // of that ramdisk: none after it can be read
}

func newWalker(f *eif.File) *walker { return &walker{File: f, r: initramfs.NewReader(nil)} }

// walk is WalkRamdisks for a ramdisk after those that w has walked. It reads those between them too: all are
// unpacked into one tree.
func (w *walker) walk(s eif.Section, use func(*initramfs.Header, *initramfs.Reader) error) error {
	disks := w.All(eif.Ramdisk)
	last := slices.Index(disks, s)
	for w.err == nil && w.next <= last {
		w.err = readRamdisk(w.r, w.File, disks[w.next], func(h *initramfs.Header) error {
			if w.next < last {
				return nil
			}
			return use(h, w.r)
		})
		if w.err == nil {
			w.next++
		}
	}
	if w.err != nil && w.next < last {
		return fmt.Errorf("ramdisk %d: %w", w.next, w.err)
	}
	return w.err
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

// listing is what [Inspect] finds in all ramdisks of a file, up to the first that cannot be unpacked.
type listing struct {
	foreign     []string // names in the ramdisks after the first that do not belong there
	usage       preflight.Usage
	application *contract.Description // of init; nil if there is none that init reads
	err         error
}

// list reads all ramdisks. The kernel unpacks one ramdisk over the other, so that a later one can replace PID
// 1 and the driver that PCR1 measures, and PCR1 would identify nothing.
func list(ctx context.Context, f *eif.File) (l listing) {
	check := func(i int, h *initramfs.Header) {
		switch {
		case i == 0 || len(l.foreign) > maxForeign || contract.Belongs(path.Clean("/"+h.Name), false):
		case len(l.foreign) == maxForeign:
			l.foreign = append(l.foreign, "and more")
		default:
			l.foreign = append(l.foreign, fmt.Sprintf("ramdisk %d: %q does not belong there: the kernel unpacks "+
				"it over the first ramdisk", i, h.Name))
		}
	}
	r := initramfs.NewReader(nil)
	for i, s := range f.All(eif.Ramdisk) {
		l.usage.Ramdisks += s.Size
		err := readRamdisk(r, f, s, func(h *initramfs.Header) error {
			l.usage.Entry(h.Mode, h.Size)
			check(i, h)
			if path.Clean("/"+h.Name) == contract.Path {
				return errors.Join(l.describe(h, r), context.Cause(ctx))
			}
			return context.Cause(ctx)
		})
		var refused *initramfs.RefusedError
		if errors.As(err, &refused) {
			check(i, refused.Header)
		}
		if err != nil {
			l.err = fmt.Errorf("ramdisk %d: %w", i, err)
			break
		}
	}
	return l
}

// describe reads the application's description. It rejects one with several names: any of them may bring the
// bytes that init reads.
func (l *listing) describe(h *initramfs.Header, body io.Reader) error {
	if h.Links > 1 {
		return fmt.Errorf("%s has several names (hard links), expected one", contract.Path)
	}
	text, err := io.ReadAll(io.LimitReader(body, contract.MaxSize+1))
	if err != nil {
		return err
	}
	if d, err := contract.Decode(string(text)); err == nil {
		l.application = &d
	}
	return nil
}
