package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// layer is a layer of an image that has not been read yet.
type layer struct {
	digest string // sha256:… of the bytes of open; "" if the source does not know it
	diffID string // sha256:… of the archive, decompressed; "" if the source does not know it
	open   func(ctx context.Context) (io.ReadCloser, error)
	// file, if it is not nil, holds these bytes, from byte at. An archive that is not compressed stays there.
	file *os.File
	at   int64
}

// archive is the tar archive of a layer, verified and on disk.
type archive struct {
	file     *os.File
	at, size int64
}

// compressions are told by their first bytes, as Docker does: media types are wrong now and then.
var compressions = []struct {
	name  string
	magic string
	// open is nil if the compression is not supported.
	open func(context.Context, *bufio.Reader, *windowRoom) (io.Reader, func(), error)
}{
	{"gzip", "\x1f\x8b", func(_ context.Context, in *bufio.Reader, _ *windowRoom) (io.Reader, func(), error) {
		r, err := gzip.NewReader(in)
		return r, func() {}, err
	}},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"zstd", "\x50\x2a\x4d\x18", openZstd}, // a skippable frame first
	{"xz", "\xfd7zXZ\x00", openXZ},
	{"bzip2", "BZh", nil},
	{"lz4", "\x04\x22\x4d\x18", nil},
}

// decompress returns a reader of the decompressed bytes and a function that frees its memory; nil if the
// bytes are not compressed.
func decompress(ctx context.Context, in *bufio.Reader, w *windowRoom) (io.Reader, func(), error) {
	first, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(first, []byte(c.magic)) {
			continue
		}
		if c.open == nil {
			return nil, nil, fmt.Errorf("unsupported compression %s: expected gzip, zstd, xz or none", c.name)
		}
		r, done, err := c.open(ctx, in, w)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", c.name, err)
		}
		return r, done, nil
	}
	return nil, func() {}, nil
}

// smallWindow is the memory that every zstd layer gets: RFC 8878 advises against larger windows, and
// container tools follow it.
const smallWindow = 8 << 20

// openZstd waits until there is room for the window of the first frame. Later frames get no more.
func openZstd(ctx context.Context, in *bufio.Reader, w *windowRoom) (io.Reader, func(), error) {
	head, err := in.Peek(4096)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	window := max(firstWindow(head), min(smallWindow, w.limit))
	if window > w.limit {
		return nil, nil, &LimitError{"bytes of window for a zstd layer", w.limit, "Window"}
	}
	if err := w.room.Acquire(ctx, window); err != nil {
		return nil, nil, err
	}
	r, err := zstd.NewReader(in,
		zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		w.room.Release(window)
		return nil, nil, err
	}
	done := func() {
		r.Close()
		r = nil
		runtime.GC() // several windows would be garbage at a time if the room were free before the memory is
		w.room.Release(window)
	}
	return r, done, nil
}

// firstWindow returns the window of the first zstd frame that has one, in bytes; 0 if it is not in head.
func firstWindow(head []byte) int64 {
	for {
		var h zstd.Header
		if h.Decode(head) != nil {
			return 0
		}
		switch {
		case h.Skippable:
			if uint64(h.HeaderSize)+uint64(h.SkippableSize) > uint64(len(head)) {
				return 0
			}
			head = head[h.HeaderSize+int(h.SkippableSize):]
			continue
		case h.SingleSegment: // the whole content is its window
			return int64(min(h.FrameContentSize, math.MaxInt64))
		}
		return int64(h.WindowSize)
	}
}

// openXZ waits until there is room for the largest dictionary, which is what a window is for zstd.
func openXZ(ctx context.Context, in *bufio.Reader, w *windowRoom) (io.Reader, func(), error) {
	if err := w.room.Acquire(ctx, w.limit); err != nil {
		return nil, nil, err
	}
	done := func() { w.room.Release(w.limit) }
	r, err := xz.NewReader(in, uint32(min(w.limit, math.MaxUint32)))
	if err == xz.ErrMemlimit {
		err = &LimitError{What: "bytes of dictionary for an xz archive", Limit: w.limit, Field: "Window"}
	}
	if err != nil {
		done()
	}
	return r, done, err
}

// read decompresses a layer into a temporary file of the tree, unless it is a plain archive in a file, and
// verifies its digests. It runs in several goroutines.
func (l *layer) read(ctx context.Context, t *Tree) (*archive, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	defer context.AfterFunc(ctx, func() { blob.Close() })()

	packed, plain := sha256.New(), sha256.New()
	in := bufio.NewReaderSize(io.TeeReader(stream.Reader(ctx, blob), packed), 64<<10)
	var out *archive
	r, done, err := decompress(ctx, in, t.budget.windows)
	if err == nil {
		defer done()
		out, err = l.unpack(r, in, plain, t)
		if r == nil {
			plain = packed
		}
	}
	if limit := (*LimitError)(nil); errors.As(err, &limit) || ctx.Err() != nil {
		return nil, err
	}
	// The digest includes what follows the compressed stream. Damage is the reason of an error before.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, err
	}
	if found := fmt.Sprintf("sha256:%x", packed.Sum(nil)); l.digest != "" && found != l.digest {
		return nil, fmt.Errorf("digest is %s, expected %s: the layer was damaged or changed on the way",
			found, l.digest)
	}
	if err != nil {
		return nil, err
	}
	if found := fmt.Sprintf("sha256:%x", plain.Sum(nil)); l.diffID != "" && found != l.diffID {
		return nil, fmt.Errorf("diff ID is %s, expected %s: the layer was damaged or changed on the way",
			found, l.diffID)
	}
	return out, nil
}

// unpack reads a layer from r, or from in if r is nil: if it is not compressed.
func (l *layer) unpack(r, in io.Reader, plain io.Writer, t *Tree) (out *archive, err error) {
	sinks := []io.Writer{t.budget}
	out = &archive{file: l.file, at: l.at}
	if r != nil {
		sinks = append(sinks, plain)
		out = &archive{}
	} else {
		r = in
	}
	if out.file == nil {
		if out.file, err = t.spool(); err != nil {
			return nil, err
		}
		sinks = append(sinks, out.file)
	}
	// The structs hide ReadFrom and WriteTo, which would choose buffers of their own.
	to := struct{ io.Writer }{io.MultiWriter(sinks...)}
	out.size, err = io.CopyBuffer(to, struct{ io.Reader }{r}, make([]byte, 64<<10))
	return out, err
}

// merge lays the layer over the tree below root.
func (a *archive) merge(ctx context.Context, t *Tree, root uint32, labels hostLabels) error {
	place, err := t.from(bodies{file: a.file})
	if err != nil {
		return err
	}
	m := merge{t: t, root: root, layer: uint16(t.layers), plain: labels != nil}
	in := newTarFile(a.file, a.at, a.size)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err // a hostile layer can make each of its entries slow
		}
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = t.budget.takeEntry()
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e, link, err := entry(h)
		if err == nil && labels != nil {
			e.Xattrs = labels.filter(e.Xattrs)
		}
		if err == nil && e.Size > 0 {
			e.body = body{file: place.file, at: in.offset()}
			if isSparse(h) {
				err = t.expand(e, in)
			}
		}
		if err == nil {
			err = m.apply(e, link)
		}
		if err != nil {
			return fmt.Errorf("entry %d, %q: %w", n, h.Name, err)
		}
	}
}

// expand writes the bytes of a sparse file to a temporary file.
func (t *Tree) expand(e *Entry, r io.Reader) error {
	if err := t.budget.takeBytes(e.Size); err != nil {
		return err
	}
	f, err := t.spool()
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, r, e.Size); err != nil {
		return err
	}
	e.body, err = t.from(bodies{file: f})
	return err
}

// isSparse reports whether the archive does not hold the bytes of a file as they are.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

type tarType struct {
	flag byte
	mode uint32
}

// tarTypes are the file types of entries. The first with a type is what is written for it.
var tarTypes = []tarType{
	{tar.TypeReg, initramfs.TypeFile},
	{tar.TypeCont, initramfs.TypeFile},
	{tar.TypeGNUSparse, initramfs.TypeFile},
	{tar.TypeLink, initramfs.TypeFile},
	{tar.TypeSymlink, initramfs.TypeSymlink},
	{tar.TypeChar, initramfs.TypeChar},
	{tar.TypeBlock, initramfs.TypeBlock},
	{tar.TypeDir, initramfs.TypeDir},
	{tar.TypeFifo, initramfs.TypeFifo},
}

const paxXattr = "SCHILY.xattr."

// entry returns what a header of a layer describes. link is the target of a hard link.
func entry(h *tar.Header) (e *Entry, link string, err error) {
	var kind uint32
	for _, t := range tarTypes {
		if t.flag == h.Typeflag {
			kind = t.mode
		}
	}
	if kind == 0 {
		return nil, "", fmt.Errorf("unsupported type %q", h.Typeflag)
	}
	const ids = 1<<32 - 2 // the kernel takes the next one for "no owner"
	for _, id := range []struct {
		what  string
		value int64
		max   int64
	}{
		{"owner", int64(h.Uid), ids}, {"group", int64(h.Gid), ids},
		{"major number", h.Devmajor, math.MaxUint32}, {"minor number", h.Devminor, math.MaxUint32},
	} {
		if id.value < 0 || id.value > id.max {
			return nil, "", fmt.Errorf("invalid %s %d: expected 0 to %d", id.what, id.value, id.max)
		}
	}
	e = &Entry{
		Path: h.Name, Mode: kind | uint32(h.Mode&0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid),
		ModTime: h.ModTime.Unix(), Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	switch h.Typeflag {
	case tar.TypeLink:
		if link = h.Linkname; link == "" {
			return nil, "", errors.New("hard link without a target")
		}
	case tar.TypeSymlink:
		e.Target = h.Linkname
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Size = h.Size
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			e.Xattrs = append(e.Xattrs, Xattr{name, value})
		}
	}
	return e, link, nil
}

// tarFile reads the headers of a tar archive in a file, without its bodies.
type tarFile struct {
	*tar.Reader
	section *io.SectionReader
	at      int64
}

func newTarFile(f *os.File, at, size int64) *tarFile {
	s := io.NewSectionReader(f, at, size)
	return &tarFile{tar.NewReader(s), s, at}
}

// offset returns the position in the file where the body of the current entry begins.
func (t *tarFile) offset() int64 {
	n, _ := t.section.Seek(0, io.SeekCurrent) // cannot fail
	return t.at + n
}
