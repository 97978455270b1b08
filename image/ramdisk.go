package image

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Ramdisk says how [Tree.WriteRamdisk] writes a tree.
type Ramdisk struct {
	// Epoch is the latest modification time of an entry, in seconds since 1970 (SOURCE_DATE_EPOCH). Later
	// times become Epoch. Nil keeps all times.
	Epoch *int64
	// Marker, if it is not nil, is the last entry of the archive. Its presence proves to the program that
	// starts from the ramdisk that the kernel unpacked everything before it.
	Marker *Marker
	// Lost is called for everything that the archive cannot hold: extended attributes, files of 4 GiB or more
	// (which are omitted), and entries of the tree in the place of the marker. An error that it returns ends
	// the writing. If Lost is nil, every loss is an error.
	Lost func(path, what string) error
}

// Marker is a file that ends an archive, with mode 0644 and owner 0:0.
type Marker struct {
	Path    string // a directory and a name in it, without a leading slash
	Content string
	ModTime int64 // of the file and, if the tree lacks it, of its directory, in seconds since 1970
}

// WriteRamdisk writes the tree as a newc archive, in the order of [Tree.Walk]. If w is an *os.File, the
// kernel copies the large bodies.
func (t *Tree) WriteRamdisk(w io.Writer, o Ramdisk) error {
	if o.Lost == nil {
		o.Lost = func(path, what string) error { return fmt.Errorf("%s: %s", path, what) }
	}
	out := ramdiskWriter{Writer: initramfs.NewWriter(w), tree: t, o: o, written: map[uint32]bool{}}
	if err := t.Walk(out.entry); err != nil {
		return err
	}
	if err := out.marker(); err != nil {
		return err
	}
	return out.Close()
}

type ramdiskWriter struct {
	*initramfs.Writer
	tree      *Tree
	o         Ramdisk
	markerDir bool            // the tree has the marker's directory
	written   map[uint32]bool // inodes with several names whose bytes have been written
}

// entry writes one entry of the tree.
func (w *ramdiskWriter) entry(e *Entry) error {
	if m := w.o.Marker; m != nil {
		if e.Path == m.Path || strings.HasPrefix(e.Path, m.Path+"/") {
			return w.o.Lost(e.Path, "omitted: the last entry of the ramdisk has this name")
		}
		if e.Path == path.Dir(m.Path) {
			if w.markerDir = e.IsDir(); !w.markerDir {
				return fmt.Errorf("%s: found mode %o, expected a directory or nothing: "+
					"the ramdisk ends with %s; put the image below a prefix",
					e.Path, e.Mode, m.Path)
			}
		}
	}
	for _, x := range e.Xattrs {
		what := fmt.Sprintf("extended attribute %s is lost: an initramfs cannot hold any", x.Name)
		if err := w.o.Lost(e.Path, what); err != nil {
			return err
		}
	}
	h := initramfs.Header{
		Name: e.Path, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: w.time(e.ModTime),
		Size: e.Size, Major: e.Major, Minor: e.Minor, Inode: e.Inode, Links: e.Links,
	}
	switch {
	case e.IsDir():
		h.Links = 0
	case e.Target != "":
		// The kernel creates each name of a symbolic link separately.
		h.Size, h.Links = int64(len(e.Target)), 1
	}
	if err := h.Check(); err != nil {
		if errors.Is(err, initramfs.ErrTooLarge) {
			what := fmt.Sprintf("omitted: it has %d bytes, and an initramfs cannot hold 4 GiB or more",
				e.Size)
			return w.o.Lost(e.Path, what)
		}
		return err
	}
	if e.Links > 1 && e.IsRegular() {
		if w.written[e.Inode] {
			h.Size = 0
		}
		w.written[e.Inode] = true
	}
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	var err error
	switch {
	case e.Target != "":
		_, err = io.WriteString(w, e.Target)
	case h.Size > 0:
		_, err = w.tree.CopyBody(w, e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// marker writes the last entry.
func (w *ramdiskWriter) marker() error {
	m := w.o.Marker
	if m == nil {
		return nil
	}
	at := w.time(m.ModTime)
	if !w.markerDir {
		dir := initramfs.Header{Name: path.Dir(m.Path), Mode: initramfs.TypeDir | 0o755, ModTime: at}
		if err := w.WriteHeader(&dir); err != nil {
			return err
		}
	}
	size := int64(len(m.Content))
	file := initramfs.Header{Name: m.Path, Mode: initramfs.TypeFile | 0o644, ModTime: at, Size: size}
	if err := w.WriteHeader(&file); err != nil {
		return err
	}
	_, err := io.WriteString(w, m.Content)
	return err
}

// time clamps a modification time to Epoch and to the 32 bits of the archive's field.
func (w *ramdiskWriter) time(t int64) uint32 {
	if w.o.Epoch != nil {
		t = min(t, *w.o.Epoch)
	}
	return uint32(max(0, min(t, math.MaxUint32)))
}
