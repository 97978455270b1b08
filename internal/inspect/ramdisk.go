package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
)

// plainMagic is how a newc archive starts.
const plainMagic = "0707"

// WalkRamdisks calls use for each entry of all ramdisks, with a reader of the entry's content. It fails at
// the first thing that the kernel may read in another way, or unpack elsewhere.
func WalkRamdisks(
	f *eif.File, use func(i int, h *initramfs.Header, body *initramfs.Reader) error,
) error {
	r := newReader(f)
	return r.each(func(i int, h *initramfs.Header) error { return use(i, h, r.Reader) })
}

// reader reads the ramdisks of a file one after the other, as unpack_to_rootfs reads them joined: archives,
// compressed streams of archives, and zeros between them.
type reader struct {
	*initramfs.Reader
	*eif.File
	at    int64 // bytes of the ramdisks before the current one
	plain int64 // where the current archive is in the file, if it is not compressed; 0 otherwise
	left  int64 // bytes that compressed streams may still have

	// What the kernel does with what comes next, after what has been read last: it expects it at a multiple
	// of 4 after a plain archive, and takes it for a block of an lz4 stream that is open.
	aligned, open bool
}

func newReader(f *eif.File) *reader {
	return &reader{Reader: initramfs.NewReader(nil), File: f, left: image.DefaultLimits.Bytes}
}

// each calls use for each entry of all ramdisks.
func (r *reader) each(use func(i int, h *initramfs.Header) error) error {
	for i, s := range r.All(eif.Ramdisk) {
		if err := r.read(s, func(h *initramfs.Header) error { return use(i, h) }); err != nil {
			return fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return nil
}

// limited reads a compressed stream of a reader.
type limited struct {
	io.Reader
	*reader
}

func (l limited) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("the ramdisks have more than %d bytes, decompressed", image.DefaultLimits.Bytes)
	}
	return n, err
}

// read calls use for each entry of the next ramdisk.
func (r *reader) read(s eif.Section, use func(*initramfs.Header) error) error {
	content := r.Content(s)
	at, err := compression.SkipZeros(content, 0)
	if err == nil && at == s.Size {
		err = errors.New("expected an archive, found nothing")
	}
	for err == nil && at < s.Size {
		if at, err = r.archive(s, at, use); err == nil {
			at, err = compression.SkipZeros(content, at)
		}
	}
	r.at += s.Size
	return err
}

// archive reads what is at a place in a ramdisk, and returns where it ends.
func (r *reader) archive(s eif.Section, at int64, use func(*initramfs.Header) error) (int64, error) {
	content := io.NewSectionReader(r.Content(s), at, s.Size-at)
	stream, err := compression.Next(content, content.Size())
	if err != nil {
		return at, err
	}
	head := make([]byte, len(plainMagic))
	content.ReadAt(head, 0)
	switch {
	case stream == nil && string(head) != plainMagic:
		return at, fmt.Errorf("byte %d: neither a newc archive nor compressed in a format that the kernel "+
			"reads",
			at)
	case r.open:
		return at, fmt.Errorf("byte %d: it follows an lz4 stream without 4 zeros at its end: "+
			"the kernel takes it for more of the stream", at)
	case (stream == nil || r.aligned) && (r.at+at)%4 != 0:
		return at, fmt.Errorf("byte %d is byte %d of all ramdisks, which is not a multiple of 4: "+
			"the kernel does not find what starts there", at, r.at+at)
	}
	r.aligned, r.open, r.plain = stream == nil, false, 0
	if stream == nil {
		r.plain = s.Content() + at
		r.Continue(content)
	} else {
		r.Continue(limited{stream, r})
	}
	for {
		h, err := r.Next()
		switch {
		case err == nil:
			err = use(h)
		case err == io.EOF && stream != nil:
			r.open = stream.Open()
			return at + stream.Size(), nil
		case err == io.EOF, stream == nil && errors.Is(err, initramfs.ErrTrailing):
			return at + r.Offset(), nil
		}
		if err != nil {
			return at, err
		}
	}
}

// walker reads ramdisks one after the other, each once.
type walker struct {
	*reader
	next int   // the ramdisk that is read next
	err  error // of that ramdisk: none after it can be read
}

func newWalker(f *eif.File) *walker { return &walker{reader: newReader(f)} }

// walk is WalkRamdisks for a ramdisk after those that w has walked. It reads those between them too: all are
// unpacked into one tree.
func (w *walker) walk(s eif.Section, use func(*initramfs.Header, *initramfs.Reader) error) error {
	disks := w.All(eif.Ramdisk)
	last := slices.Index(disks, s)
	for w.err == nil && w.next <= last {
		w.err = w.read(disks[w.next], func(h *initramfs.Header) error {
			if w.next < last {
				return nil
			}
			return use(h, w.Reader)
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
			l.foreign = append(l.foreign, fmt.Sprintf("ramdisk %d: %q does not belong there: the kernel "+
				"unpacks it over the first ramdisk", i, h.Name))
		}
	}
	r := newReader(f)
	for i, s := range f.All(eif.Ramdisk) {
		l.usage.Ramdisks += s.Size
		err := r.read(s, func(h *initramfs.Header) error {
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
