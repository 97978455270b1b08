package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// bufferSize holds headers and small bodies together, so that 200,000 small files are not 400,000 writes.
const bufferSize = 256 << 10

// Writer writes an archive. It keeps the order of the entries.
type Writer struct {
	w       *bufio.Writer
	under   io.Writer
	written int64  // bytes so far, buffered ones included
	left    int64  // bytes that the current entry still needs
	name    string // of the current entry
	link    bool   // whether the current entry is a symbolic link
	inode   uint32 // the highest number used
	names   names
	err     error // the first error; nothing is written after it
	closed  bool
}

// NewWriter returns a Writer. Close ends the archive; it does not close w.
//
// If w is an *os.File and a body comes from another one (see [Writer.ReadFrom]), the kernel copies the bytes.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, bufferSize), under: w, names: newNames()}
}

// WriteHeader ends the current entry and begins the next. The kernel creates no parents, so an entry must
// come after its directory. A name may be written once, that of a directory several times: the last one
// counts.
func (w *Writer) WriteHeader(h *Header) error {
	if err := w.finish(); err != nil {
		return err
	}
	if err := h.Check(); err != nil {
		return w.fail(err)
	}
	if _, err := w.names.add(h.Name, h.Mode, h.ModTime); err != nil {
		return w.fail(fmt.Errorf("%s: %w", h.Name, err))
	}
	inode := h.Inode
	if inode == 0 {
		inode = w.NextInode()
	}
	w.inode = max(w.inode, inode)
	links := max(h.Links, 1)
	if h.Mode&TypeMask == TypeDir && h.Links == 0 {
		links = 2
	}
	w.name, w.left, w.link = h.Name, h.Size, h.Mode&TypeMask == TypeSymlink
	return w.header(h, inode, links, h.Name)
}

// NextInode returns the number that the next entry gets if its Inode is 0.
func (w *Writer) NextInode() uint32 { return w.inode + 1 }

// Len returns the size of the archive so far in bytes, including what is still buffered.
func (w *Writer) Len() int64 { return w.written }

const hexDigits = "0123456789ABCDEF"

func (w *Writer) header(h *Header, inode, links uint32, name string) error {
	var b [headerSize]byte
	copy(b[:], magic)
	for i, field := range [...]uint32{
		inode, h.Mode, h.UID, h.GID, links, h.ModTime, uint32(h.Size),
		0, 0, // the device that holds the file
		h.Major, h.Minor,
		uint32(len(name) + 1),
		0, // the checksum, of another format
	} {
		at := b[len(magic)+8*i:][:8]
		for j := 7; j >= 0; j-- {
			at[j] = hexDigits[field&15]
			field >>= 4
		}
	}
	w.put(b[:])
	w.putString(name)
	w.put(zeros[:1])
	w.pad()
	return w.err
}

// Write writes to the body of the current entry. It is an error to write more than Size bytes.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		return 0, w.fail(fmt.Errorf("%s: body is %d bytes longer than its header says", w.name,
			int64(len(p))-w.left))
	}
	if w.link && bytes.IndexByte(p, 0) >= 0 { // for do_symlink, the target ends there
		return 0, w.fail(fmt.Errorf("%s: the target of the symbolic link has a NUL", w.name))
	}
	w.put(p)
	w.left -= int64(len(p))
	return len(p), w.err
}

// ReadFrom fills the rest of the body of the current entry from r, and reads no further. If both sides are
// files, the kernel copies.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.left == 0 {
		return 0, nil
	}
	want := w.left
	if w.link {
		target := make([]byte, want) // at most MaxPath bytes
		if n, err := io.ReadFull(r, target); err != nil {
			return int64(n), w.fail(fmt.Errorf("%s: after %d of %d bytes: %w", w.name, n, want, err))
		}
		n, err := w.Write(target)
		return int64(n), err
	}
	limited := &io.LimitedReader{R: r, N: want}
	if l, ok := r.(*io.LimitedReader); ok { // one limit alone is seen through by os.File.ReadFrom
		limited = &io.LimitedReader{R: l.R, N: min(l.N, want)}
	}
	var n int64
	var err error
	if under, ok := w.under.(io.ReaderFrom); ok && want >= bufferSize {
		if err = w.w.Flush(); err == nil {
			n, err = under.ReadFrom(limited)
		}
	} else {
		// bufio's own ReadFrom would hand on to under even for a small body and flush every time.
		n, err = io.Copy(struct{ io.Writer }{w.w}, limited)
	}
	w.written += n
	w.left -= n
	if err == nil && n < want {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, w.fail(fmt.Errorf("%s: after %d of %d bytes: %w", w.name, n, want, err))
	}
	return n, nil
}

// Close writes the trailer, and zeros up to a multiple of four bytes, so that another archive may follow.
func (w *Writer) Close() error {
	if w.closed {
		return w.err
	}
	if err := w.finish(); err != nil {
		return err
	}
	w.closed = true
	if err := w.header(&Header{}, 0, 1, trailer); err != nil {
		return err
	}
	if err := w.w.Flush(); err != nil {
		return w.fail(err)
	}
	w.err = errors.New("the archive is closed")
	return nil
}

// finish ends the current entry: its body must be complete, and the next entry starts at a multiple of four.
func (w *Writer) finish() error {
	if w.err == nil && w.left != 0 {
		w.fail(fmt.Errorf("%s: body is %d bytes shorter than its header says", w.name, w.left))
	}
	w.pad()
	return w.err
}

var zeros [4]byte

func (w *Writer) pad() { w.put(zeros[:-w.written&3]) }

func (w *Writer) put(p []byte) {
	if w.err == nil {
		n, err := w.w.Write(p)
		w.written += int64(n)
		if err != nil {
			w.fail(err)
		}
	}
}

func (w *Writer) putString(s string) {
	if w.err == nil {
		n, err := w.w.WriteString(s)
		w.written += int64(n)
		if err != nil {
			w.fail(err)
		}
	}
}

// fail keeps the first error.
func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}
