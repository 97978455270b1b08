package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Reader reads an archive, or several that follow each other, as the kernel does.
type Reader struct {
	r    *bufio.Reader
	seek io.Seeker // what r reads from, when it can seek
	pos  int64     // bytes consumed
	left int64     // bytes of the current body not yet read
	end  bool      // a trailer has been read and nothing but zeros since
	tree *unpacked
}

// RefusedError is the error for an entry of which the kernel makes something else than its header says.
type RefusedError struct {
	Header *Header
	At     int64 // bytes before the entry in its ramdisk, uncompressed
	Err    error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("newc archive, entry %q at byte %d: the kernel may unpack something else: %v",
		e.Header.Name, e.At, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// ErrTrailing is the error for something that is neither zeros nor an archive behind the trailer of one.
// [Reader.Offset] is its place. The kernel takes it for a compressed stream, if it is not compressed itself.
var ErrTrailing = errors.New("newc archive: expected zeros or another archive after the trailer")

// NewReader returns a Reader of an uncompressed archive. It reads ahead. If r is an io.Seeker, it skips
// bodies that the caller does not read.
func NewReader(r io.Reader) *Reader {
	seek, _ := r.(io.Seeker)
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), seek: seek, tree: newUnpacked()}
}

// Continue goes on with the archive or ramdisk after the one that has ended with [io.EOF] or [ErrTrailing]:
// the kernel unpacks it into the same tree.
func (r *Reader) Continue(in io.Reader) {
	r.seek, _ = in.(io.Seeker)
	r.r.Reset(in)
	r.pos, r.left, r.end = 0, 0, false
}

// Next goes to the next entry. After the last it returns io.EOF. Several archives may follow each other, with
// zeros between them, as in concatenated ramdisks: their entries come one after the other, and inode numbers
// start anew with each.
//
// An archive without its trailer, or with anything but zeros after it, is an error. So is an entry of which
// the kernel makes something else than its header says: a [RefusedError].
func (r *Reader) Next() (*Header, error) {
	if err := r.skipBody(); err != nil {
		return nil, err
	}
	if err := r.skipPad(); err != nil {
		return nil, err
	}
	for {
		if r.end {
			if err := r.skipZeros(); err != nil {
				return nil, err // io.EOF at the end of it all
			}
		}
		start := r.pos
		h, err := r.header()
		if err != nil {
			return nil, fmt.Errorf("newc archive, entry at byte %d: %w", start, noEOF(err))
		}
		if h.Name != trailer {
			r.end = false
			r.left = h.Size
			err := r.tree.entry(h)
			if err == nil && h.Mode&TypeMask == TypeSymlink { // for do_symlink, the target ends at a NUL
				if target, _ := r.r.Peek(int(h.Size)); bytes.IndexByte(target, 0) >= 0 {
					err = errors.New("the target of the symbolic link has a NUL")
				}
			}
			if err != nil {
				return nil, &RefusedError{h, start, err}
			}
			return h, nil
		}
		if h.Size != 0 || h.Mode&TypeMask == TypeSymlink {
			// The kernel would skip the bytes of such a trailer, or create a link, and read on elsewhere.
			return nil, fmt.Errorf("newc archive, entry at byte %d: trailer has mode %o and %d bytes, "+
				"expected no symbolic link and no bytes", start, h.Mode, h.Size)
		}
		r.tree.endArchive()
		r.end = true
	}
}

// Offset returns the position in the stream of the next byte of the current body.
func (r *Reader) Offset() int64 { return r.pos }

// Read reads from the body of the current entry, and returns io.EOF at its end.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.pos += int64(n)
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		err = fmt.Errorf("newc archive: truncated at byte %d, %d bytes before the end of a file: %w",
			r.pos, r.left, io.ErrUnexpectedEOF)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (r *Reader) header() (*Header, error) {
	b, err := r.r.Peek(headerSize)
	if err != nil {
		return nil, err
	}
	if string(b[:6]) != magic {
		return nil, fmt.Errorf("found magic %q, expected %q", b[:6], magic)
	}
	var f [13]uint32
	for i := range f {
		for _, c := range b[6+8*i:][:8] {
			d, ok := digit(c)
			if !ok {
				return nil, fmt.Errorf("field %d: found %q, expected a hexadecimal number", i, b[6+8*i:][:8])
			}
			f[i] = f[i]<<4 | d
		}
	}
	nameSize := f[11]
	if nameSize < 2 || nameSize > MaxPath+1 {
		return nil, fmt.Errorf("name has %d bytes with its NUL, expected 2 to %d", nameSize, MaxPath+1)
	}
	b, err = r.r.Peek(headerSize + int(nameSize))
	if err != nil {
		return nil, err
	}
	name := b[headerSize:]
	if name[nameSize-1] != 0 {
		return nil, fmt.Errorf("name %q does not end in a NUL", name)
	}
	// gen_init_cpio adds more NULs to align the body. For the kernel a name ends at the first, so with
	// anything after it, this name would differ from the one that the kernel unpacks.
	text := string(bytes.TrimRight(name, "\x00"))
	if strings.IndexByte(text, 0) >= 0 {
		return nil, fmt.Errorf("name %q contains a NUL, where it ends for the kernel", text)
	}
	r.pos += int64(len(b))
	if _, err := r.r.Discard(len(b)); err != nil {
		return nil, err
	}
	if err := r.skipPad(); err != nil {
		return nil, err
	}
	return &Header{
		Name: text, Inode: f[0], Mode: f[1], UID: f[2], GID: f[3], Links: f[4],
		ModTime: f[5], Size: int64(f[6]), Device: [2]uint32{f[7], f[8]}, Major: f[9], Minor: f[10],
	}, nil
}

// digit returns the value of a hexadecimal digit. The kernel accepts both cases.
func digit(c byte) (uint32, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint32(c - '0'), true
	case c >= 'a' && c <= 'f':
		return uint32(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return uint32(c-'A') + 10, true
	}
	return 0, false
}

// skipBody goes to the end of the current body.
func (r *Reader) skipBody() error {
	if r.left == 0 {
		return nil // as with most of a million names: io.Copy would allocate a buffer for each
	}
	ahead := r.left - int64(r.r.Buffered())
	if r.seek != nil && ahead > 0 {
		if _, err := r.seek.Seek(ahead, io.SeekCurrent); err != nil {
			r.seek = nil // a pipe has the method too
		}
	}
	if r.seek == nil || ahead <= 0 {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	r.r.Reset(r.seek.(io.Reader))
	r.pos += r.left
	r.left = 0
	return nil
}

func (r *Reader) skipPad() error {
	n, err := r.r.Discard(int(-r.pos & 3))
	r.pos += int64(n)
	return noEOF(err)
}

// skipZeros goes on to the next archive, which starts at a multiple of four, or to the end.
func (r *Reader) skipZeros() error {
	for {
		b, err := r.r.ReadByte()
		if err != nil {
			return err
		}
		r.pos++
		if b == 0 {
			continue
		}
		if err := r.r.UnreadByte(); err != nil {
			return err
		}
		r.pos--
		if r.pos%4 != 0 {
			return fmt.Errorf("newc archive: found %#x at byte %d after a trailer, expected zeros up to a "+
				"multiple of four",
				b, r.pos)
		}
		if b != magic[0] {
			return fmt.Errorf("%w, found %#x at byte %d", ErrTrailing, b, r.pos)
		}
		return nil
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
