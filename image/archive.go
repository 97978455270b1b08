package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Unpacker adds the entries of ramdisks to a tree, over what is there, as the kernel unpacks them.
type Unpacker struct {
	m       merge
	place   body     // of the bodies that stay where they are
	spool   *os.File // for the others; nil until there is one
	spooled body     // where the next one goes
}

// Unpacker returns one that puts entries at the root. Bodies may stay in file, which must not be closed
// before the tree.
func (t *Tree) Unpacker(file *os.File) (*Unpacker, error) {
	t.layers++
	place, err := t.from(bodies{file: file})
	return &Unpacker{m: merge{t: t, root: t.root, layer: uint16(t.layers)}, place: place}, err
}

// Add adds an entry. Its body is at a byte of the file of [Tree.Unpacker], or, if at is negative, goes to a
// temporary file.
func (u *Unpacker) Add(h *initramfs.Header, r io.Reader, at int64) error {
	t := u.m.t
	e := &Entry{
		Path: strings.Trim(strings.TrimPrefix(h.Name, "./"), "/"), Mode: h.Mode, UID: h.UID, GID: h.GID,
		ModTime: int64(h.ModTime), Major: h.Major, Minor: h.Minor,
	}
	if e.Path == "" || e.Path == "." {
		return nil
	}
	err := errors.Join(t.budget.takeEntry(), checkPath(e.Path))
	switch {
	case err != nil:
	case h.Mode&initramfs.TypeMask == initramfs.TypeSymlink:
		var target []byte
		target, err = io.ReadAll(r)
		e.Target = string(target)
	case e.IsRegular() && h.Size > 0:
		e.Size, e.body = h.Size, body{u.place.file, at}
		if at < 0 {
			e.body, err = u.keep(r)
		}
	}
	if err == nil {
		err = u.put(e, strings.Trim(strings.TrimPrefix(h.LinkTo, "./"), "/"))
	}
	if err != nil {
		return fmt.Errorf("%.200q: %w", h.Name, err)
	}
	return nil
}

// keep copies a body to a temporary file.
func (u *Unpacker) keep(r io.Reader) (b body, err error) {
	t := u.m.t
	if u.spool == nil {
		if u.spool, err = t.spool(); err != nil {
			return b, err
		}
		if u.spooled, err = t.from(bodies{file: u.spool}); err != nil {
			return b, err
		}
	}
	b = u.spooled
	n, err := io.Copy(io.MultiWriter(u.spool, t.budget), r)
	u.spooled.at += n
	return b, err
}

// put puts an entry, or links it to the first name of its file. Any of the names may have the bytes.
func (u *Unpacker) put(e *Entry, first string) error {
	t := u.m.t
	if first != "" && first != e.Path {
		if id, err := t.find(u.m.root, first); err == nil && id != 0 && !t.isDir(id) {
			if ino := t.inodes.at(t.nodes.at(id).inode); e.Size > 0 {
				ino.size, ino.body = e.Size, e.body
			}
			return u.m.link(e.Path, first)
		}
	}
	return u.m.put(e)
}

// Open returns the bytes of a file that [Tree.Lookup] found, and a function that closes it.
func (t *Tree) Open(e *Entry) (*io.SectionReader, func() error, error) {
	src := t.files[e.body.file]
	nothing := func() error { return nil }
	switch {
	case e.Size == 0:
		return io.NewSectionReader(bytes.NewReader(nil), 0, 0), nothing, nil
	case src.file != nil:
		return io.NewSectionReader(src.file, e.body.at, e.Size), nothing, nil
	case src.root != nil:
		f, err := src.root.Open(string(t.names.get(uint32(e.body.at))))
		if err != nil {
			return nil, nil, err
		}
		return io.NewSectionReader(f, 0, e.Size), f.Close, nil
	}
	return io.NewSectionReader(bytes.NewReader(t.names.get(uint32(e.body.at))), 0, e.Size), nothing, nil
}

// Names returns the names in a directory, at most n, in no order.
func (t *Tree) Names(dir string, n int) (names []string) {
	id, err := t.resolve(t.root, dir, false, nil)
	if err != nil || id == 0 {
		return nil
	}
	for id = t.nodes.at(id).child; id != 0 && len(names) < n; id = t.nodes.at(id).next {
		names = append(names, string(t.names.get(t.nodes.at(id).name)))
	}
	return names
}
