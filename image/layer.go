package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// layer is one layer of an image, not yet read.
type layer struct {
	digest string // sha256:… of the bytes that open gives; "" where the source does not say
	diffID string // sha256:… of the archive in them, inflated; "" where the source does not say
	open   func(ctx context.Context) (io.ReadCloser, error)
	// file, where it is not nil, holds those bytes from at on. When they are not compressed, bodies stay there.
	file *os.File
	at   int64
}

// reading is a layer that has been read: its entries in a journal, its bodies where they were or in a file without a name.
type reading struct {
	journal *journal
	spool   *os.File // nil when no body had to be moved
	moved   bool     // the bodies are in spool, not in the layer's own file
}

func (r *reading) Close() error {
	errs := []error{r.journal.Close()}
	if r.spool != nil {
		errs = append(errs, r.spool.Close())
	}
	return errors.Join(errs...)
}

// compressions are told by their first bytes, as Docker does: archives and registries now and then name the wrong one.
var compressions = []struct {
	name  string
	magic string
	open  func(context.Context, *pump, *windows) (io.Reader, func(), error)
}{
	{"gzip", "\x1f\x8b", func(_ context.Context, p *pump, _ *windows) (io.Reader, func(), error) {
		r, err := gzip.NewReader(bufio.NewReaderSize(p, 64<<10)) // the inflater has a fast path for bufio.Reader alone
		return r, func() {}, err
	}},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"zstd", "\x50\x2a\x4d\x18", openZstd}, // a skippable frame first
	{"xz", "\xfd7zXZ\x00", nil},
	{"bzip2", "BZh", nil},
	{"lz4", "\x04\x22\x4d\x18", nil},
}

// smallWindow is the memory that every zstd layer gets: RFC 8878 advises to write no larger windows, and container tools keep
// to it.
const smallWindow = 8 << 20

// openZstd waits until there is room for the window that the first frame asks for. Later ones get no more.
func openZstd(ctx context.Context, p *pump, w *windows) (io.Reader, func(), error) {
	head, err := p.Peek(4096)
	if err != nil {
		return nil, nil, err
	}
	window := max(firstWindow(head), min(smallWindow, w.limit))
	if window > w.limit {
		return nil, nil, &LimitError{What: "bytes of window for a zstd layer", Limit: w.limit, Found: window, Field: "Window"}
	}
	if err := w.room.Acquire(ctx, window); err != nil {
		return nil, nil, err
	}
	r, err := zstd.NewReader(p, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		w.room.Release(window)
		return nil, nil, err
	}
	done := func() {
		r.Close()
		r = nil
		runtime.GC() // the room is free when the memory is: the collector would let several windows lie about
		w.room.Release(window)
	}
	return zstdReader{r, window}, done, nil
}

// firstWindow is the window of the first zstd frame that has one, in bytes; 0 where the beginning does not show it.
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

// zstdReader says which window was too large.
type zstdReader struct {
	*zstd.Decoder
	window int64
}

func (z zstdReader) Read(b []byte) (int, error) {
	n, err := z.Decoder.Read(b)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = fmt.Errorf("a later zstd frame asks for a window of more than %d bytes, and the first did not: %w", z.window, err)
	}
	return n, err
}

// read inflates a layer once, checks both digests, keeps its bodies on disk and its entries in a journal.
func (l *layer) read(ctx context.Context, dir string, budget *budget) (_ *reading, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	defer context.AfterFunc(ctx, func() { blob.Close() })()

	packed := newPump(ctx, blob, sha256.New())
	plain, inPlace := packed, l.file != nil
	first, err := packed.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(first, []byte(c.magic)) {
			continue
		}
		if c.open == nil {
			return nil, fmt.Errorf("it is compressed with %s; layers are in gzip, zstd or neither", c.name)
		}
		r, done, err := c.open(ctx, packed, budget.windows)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		defer done()
		plain, inPlace = newPump(ctx, r, sha256.New()), false
		defer plain.stop()
		defer cancel()
		break
	}
	plain.budget = budget

	out := &reading{journal: &journal{dir: dir}, moved: !inPlace}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	if err := l.entries(plain, out, dir, budget); err != nil {
		return nil, err
	}
	// What follows the end of the archive belongs to the digests too.
	if err := plain.drain(); err != nil {
		return nil, err
	}
	if err := packed.drain(); err != nil {
		return nil, err
	}
	for _, c := range []struct{ what, want, found string }{
		{"digest", l.digest, packed.Sum()},
		{"diff ID", l.diffID, plain.Sum()},
	} {
		if c.want != "" && c.want != c.found {
			return nil, fmt.Errorf("its %s should be %s but is %s: it was damaged or changed on the way", c.what, c.want, c.found)
		}
	}
	return out, out.journal.rewind()
}

// entries takes the layer's archive apart.
func (l *layer) entries(plain *pump, out *reading, dir string, budget *budget) error {
	archive := tar.NewReader(plain)
	var w *bufio.Writer
	var spooled int64
	for n := 1; ; n++ {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = budget.takeEntry()
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		e, link, err := entry(h)
		if err == nil && e.IsRegular() && link == "" && e.Size > 0 {
			if out.moved || isSparse(h) {
				if w == nil {
					if out.spool, err = nameless(dir); err != nil {
						return err
					}
					w = bufio.NewWriterSize(struct{ io.Writer }{out.spool}, chunkSize)
				}
				if isSparse(h) {
					if err := budget.takeBytes(e.Size); err != nil {
						return fmt.Errorf("entry %d, %q: %w", n, h.Name, err)
					}
				}
				e.body = body{file: inSpool, at: spooled}
				var k int64
				k, err = w.ReadFrom(archive)
				spooled += k
				if err == nil && k != e.Size {
					err = io.ErrUnexpectedEOF
				}
			} else {
				e.body = body{file: inLayer, at: l.at + plain.pos}
			}
		}
		if err == nil && h.Typeflag != tar.TypeXGlobalHeader {
			err = out.journal.write(e, link)
		}
		if err != nil {
			return fmt.Errorf("entry %d, %q: %w", n, h.Name, err)
		}
	}
	if w != nil {
		return w.Flush()
	}
	return nil
}

// Where the body of a journal's entry is, before the tree gives it a number.
const (
	inSpool = 1
	inLayer = 2
)

// isSparse says whether the bytes of a file are not in the archive as they are.
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

// tarTypes are the file types of entries.
var tarTypes = map[byte]uint32{
	tar.TypeReg:       typeFile,
	tar.TypeCont:      typeFile,
	tar.TypeGNUSparse: typeFile,
	tar.TypeLink:      typeFile,
	tar.TypeSymlink:   typeSymlink,
	tar.TypeChar:      typeChar,
	tar.TypeBlock:     typeBlock,
	tar.TypeDir:       typeDir,
	tar.TypeFifo:      typeFifo,

	tar.TypeXGlobalHeader: typeFile, // no entry at all
}

const paxXattr = "SCHILY.xattr."

// entry is what a header of a layer says. link is the target of a hard link.
func entry(h *tar.Header) (e *Entry, link string, err error) {
	kind, ok := tarTypes[h.Typeflag]
	if !ok {
		return nil, "", fmt.Errorf("type %q, which no layer has", h.Typeflag)
	}
	const ids = 1<<32 - 2 // the kernel takes the next as "no owner"
	for _, id := range []struct {
		what  string
		value int64
		max   int64
	}{{"owner", int64(h.Uid), ids}, {"group", int64(h.Gid), ids}, {"major number", h.Devmajor, math.MaxUint32}, {"minor number", h.Devminor, math.MaxUint32}} {
		if id.value < 0 || id.value > id.max {
			return nil, "", fmt.Errorf("the %s %d is out of range", id.what, id.value)
		}
	}
	e = &Entry{
		Path: h.Name, Mode: kind | uint32(h.Mode&0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid),
		ModTime: h.ModTime.Unix(), Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	switch h.Typeflag {
	case tar.TypeLink:
		if link = h.Linkname; link == "" {
			return nil, "", errors.New("a hard link to nothing")
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

// journal keeps entries in order: in memory while they are few, on disk beyond.
type journal struct {
	dir  string
	buf  bytes.Buffer
	file *os.File
	w    *bufio.Writer
	r    *bufio.Reader
	tmp  []byte
}

const journalInMemory = 128 << 10

func (j *journal) write(e *Entry, link string) error {
	b := j.tmp[:0]
	b = appendString(b, e.Path)
	b = appendString(b, link)
	b = appendString(b, e.Target)
	b = appendString(b, packXattrs(e.Xattrs))
	for _, v := range [...]uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.ModTime), uint64(e.Size), uint64(e.Major), uint64(e.Minor), uint64(e.body.file), uint64(e.body.at)} {
		b = binary.AppendUvarint(b, v)
	}
	j.tmp = b
	if j.file == nil {
		if j.buf.Len()+len(b) < journalInMemory {
			j.buf.Write(b)
			return nil
		}
		f, err := nameless(j.dir)
		if err != nil {
			return err
		}
		j.file, j.w = f, bufio.NewWriterSize(f, 64<<10)
		if _, err := j.w.Write(j.buf.Bytes()); err != nil {
			return err
		}
		j.buf = bytes.Buffer{}
	}
	_, err := j.w.Write(b)
	return err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// rewind ends the writing; reading begins.
func (j *journal) rewind() error {
	if j.file == nil {
		j.r = bufio.NewReader(&j.buf)
		return nil
	}
	if err := j.w.Flush(); err != nil {
		return err
	}
	if _, err := j.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	j.r, j.w = bufio.NewReaderSize(j.file, 64<<10), nil
	return nil
}

// read returns the next entry, or io.EOF.
func (j *journal) read(e *Entry) (link string, err error) {
	if _, err := j.r.Peek(1); err != nil {
		return "", err
	}
	var xattrs string
	for _, s := range [...]*string{&e.Path, &link, &e.Target, &xattrs} {
		n, err := binary.ReadUvarint(j.r)
		if err != nil {
			return "", err
		}
		if n > uint64(cap(j.tmp)) {
			j.tmp = make([]byte, n)
		}
		if _, err := io.ReadFull(j.r, j.tmp[:n]); err != nil {
			return "", err
		}
		*s = string(j.tmp[:n])
	}
	var v [9]uint64
	for i := range v {
		if v[i], err = binary.ReadUvarint(j.r); err != nil {
			return "", err
		}
	}
	e.Mode, e.UID, e.GID, e.ModTime, e.Size = uint32(v[0]), uint32(v[1]), uint32(v[2]), int64(v[3]), int64(v[4])
	e.Major, e.Minor, e.body, e.Xattrs = uint32(v[5]), uint32(v[6]), body{file: uint16(v[7]), at: int64(v[8])}, unpackXattrs(xattrs)
	return link, nil
}

func (j *journal) Close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
