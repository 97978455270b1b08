package image

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// smallBody is the size in bytes up to which bodies are copied in memory. The kernel copies larger ones.
const smallBody = 64 << 10

// CopyBody writes the bytes of a file to w. If w is an io.ReaderFrom that writes to a file (initramfs.Writer,
// os.File), the kernel copies large bodies.
func (t *Tree) CopyBody(w io.Writer, e *Entry) (int64, error) {
	if e.Size == 0 {
		return 0, nil
	}
	src := t.files[e.body.file]
	switch {
	case src.file != nil && e.Size <= smallBody:
		if t.small == nil {
			t.small = make([]byte, smallBody)
		}
		b := t.small[:e.Size]
		if n, err := src.file.ReadAt(b, e.body.at); int64(n) < e.Size {
			return 0, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		n, err := w.Write(b)
		return int64(n), err
	case src.file != nil:
		if _, err := src.file.Seek(e.body.at, io.SeekStart); err != nil {
			return 0, err
		}
		return copyAll(w, src.file, e.Size)
	case src.root != nil:
		name := string(t.names.get(uint32(e.body.at)))
		f, err := src.root.Open(name)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if info.Size() != e.Size {
			return 0, fmt.Errorf("%s had %d bytes, now it has %d: the file changed during the build",
				filepath.Join(src.root.Name(), name), e.Size, info.Size())
		}
		return copyAll(w, f, e.Size)
	}
	n, err := w.Write(t.names.get(uint32(e.body.at)))
	return int64(n), err
}

// copyAll copies size bytes. io.CopyN lets the kernel do it if it can.
func copyAll(w io.Writer, f *os.File, size int64) (int64, error) {
	n, err := io.CopyN(w, f, size)
	if err == io.EOF {
		err = fmt.Errorf("%d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return n, err
}

// tarHeader converts e. names remembers the first name of each inode with several.
func tarHeader(e *Entry, names map[uint32]string) (*tar.Header, error) {
	h := &tar.Header{
		Name: e.Path, Mode: int64(e.Mode & 0o7777), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: time.Unix(e.ModTime, 0), Devmajor: int64(e.Major), Devminor: int64(e.Minor),
		Linkname: e.Target,
	}
	if e.Links > 1 && !e.First {
		h.Typeflag, h.Linkname = tar.TypeLink, names[e.Inode]
		return h, nil
	}
	if e.Links > 1 {
		names[e.Inode] = e.Path
	}
	kind := e.Mode & initramfs.TypeMask
	i := slices.IndexFunc(tarTypes, func(t tarType) bool { return t.mode == kind })
	if i < 0 {
		return nil, errors.New("a tar archive cannot hold a socket")
	}
	h.Typeflag, h.Size = tarTypes[i].flag, e.Size
	if e.IsDir() {
		h.Name += "/"
	}
	for _, x := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+x.Name] = x.Value
	}
	return h, nil
}
