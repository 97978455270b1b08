package image

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Entry is one name in a [Tree].
type Entry struct {
	// Path from the root of the tree, without a leading or trailing slash.
	Path string
	// Mode holds the file type, permissions and the setuid, setgid and sticky bits as stat(2) has them.
	Mode     uint32
	UID, GID uint32
	ModTime  int64 // seconds since 1970
	// Size is the number of bytes of a file, 0 for everything else.
	Size int64
	// Target is what a symbolic link points to.
	Target string
	// Major and Minor are the numbers of a device node.
	Major, Minor uint32
	// Xattrs are the extended attributes, in the order of their names. Nil for nearly every file.
	Xattrs []Xattr
	// Inode and Links are set by Walk: entries with the same number are hard links to one file, which has
	// Links names in the whole tree. Numbers count from 1 in the order of the walk.
	Inode, Links uint32
	// First is set by Walk at the first name of an inode.
	First bool

	body body
}

// Xattr is an extended attribute (xattr(7)) of a file.
type Xattr struct{ Name, Value string }

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&initramfs.TypeMask == initramfs.TypeDir }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&initramfs.TypeMask == initramfs.TypeFile }

// Tree is a file tree whose names are in memory and whose bodies stay in files. Several goroutines must not
// use it at the same time. Close frees its temporary files.
type Tree struct {
	*tables
	root uint32
}

// tables are what a tree shares with its parts, see [Tree.Sub].
type tables struct {
	nodes   slab[node]
	inodes  slab[inode]
	names   arena
	index   map[uint64]uint32 // the first node of each key, see key
	seed    maphash.Seed
	files   []bodies
	limits  Limits
	dir     string
	budget  *budget
	layers  int        // counted over all images
	links   int64      // bytes of symbolic links followed, see resolve
	closing sync.Mutex // of closer: layers are read at the same time
	closer  []io.Closer
	small   []byte // of CopyBody
}

// bodies is a place of bodies: a file with those of a layer, or a directory of this machine.
type bodies struct {
	file *os.File
	root *os.Root // bodies are files in it; their paths are in the arena
}

const (
	inArena = 0 // the first of Tree.files stands for the arena
	maxLink = 4095
	maxName = 255
	// maxHops is the largest number of symbolic links on the way of a path, as in path_resolution(7).
	maxHops = 40
)

// NewTree returns an empty tree. Bodies that must be kept on disk go to temporary files without a name in
// dir, or in os.TempDir() if dir is empty. They need the space of all layers, decompressed.
func NewTree(dir string, limits Limits) *Tree {
	limits = limits.orDefault()
	t := &Tree{tables: &tables{
		index: map[uint64]uint32{}, seed: maphash.MakeSeed(), files: make([]bodies, 1),
		limits: limits, budget: newBudget(limits), dir: dir,
	}}
	t.names.limit = limits.names()
	t.nodes.add(node{}) // index 0 means none
	t.inodes.add(inode{})
	t.root = t.newRoot()
	return t
}

// newRoot creates a directory without a name: the root of a tree, or of an image before it is put in its
// place.
func (t *Tree) newRoot() uint32 {
	name, _ := t.names.put("")
	return t.nodes.add(node{inode: t.impliedDir(), name: name})
}

// impliedDir creates the inode of a directory that no layer describes: what mkdir -p would create.
func (t *Tree) impliedDir() uint32 { return t.inodes.add(inode{mode: initramfs.TypeDir | 0o755}) }

// Close frees the files that hold bodies. The tree cannot be used any more.
func (t *Tree) Close() error {
	var errs []error
	for _, c := range t.closer {
		errs = append(errs, c.Close())
	}
	t.closer, t.files = nil, nil
	return errors.Join(errs...)
}

// CloseLater closes c when the tree is closed: an image whose layers the tree reads from.
func (t *Tree) CloseLater(c io.Closer) {
	t.closing.Lock()
	defer t.closing.Unlock()
	t.closer = append(t.closer, c)
}

// fileType returns the file type of a node, as the upper four bits of its mode.
func (t *Tree) fileType(id uint32) uint32 {
	return t.inodes.at(t.nodes.at(id).inode).mode & initramfs.TypeMask
}

func (t *Tree) isDir(id uint32) bool { return t.fileType(id) == initramfs.TypeDir }

// newInode stores the attributes of e.
func (t *Tree) newInode(e *Entry) (uint32, error) {
	ino := inode{mode: e.Mode, uid: e.UID, gid: e.GID, mtime: e.ModTime}
	switch e.Mode & initramfs.TypeMask {
	case initramfs.TypeSymlink:
		if e.Target == "" || len(e.Target) > maxLink || strings.IndexByte(e.Target, 0) >= 0 {
			return 0, fmt.Errorf("invalid symbolic link to %.40q (%d bytes): expected 1 to %d bytes "+
				"without a NUL",
				e.Target, len(e.Target), maxLink)
		}
		at, err := t.names.put(e.Target)
		if err != nil {
			return 0, err
		}
		ino.body = body{file: inArena, at: int64(at)}
	case initramfs.TypeBlock, initramfs.TypeChar:
		ino.body = body{at: int64(e.Major)<<32 | int64(e.Minor)}
	case initramfs.TypeFile:
		if e.Size < 0 {
			return 0, fmt.Errorf("invalid size %d", e.Size)
		}
		ino.size, ino.body = e.Size, e.body
	case initramfs.TypeDir, initramfs.TypeFifo, initramfs.TypeSocket:
	default:
		return 0, fmt.Errorf("invalid mode %o: unknown file type", e.Mode)
	}
	if len(e.Xattrs) > 0 {
		at, err := t.names.put(packXattrs(e.Xattrs))
		if err != nil {
			return 0, err
		}
		ino.xattrs = at + 1
	}
	return t.inodes.add(ino), nil
}

func packXattrs(xs []Xattr) string {
	xs = slices.Clone(xs)
	slices.SortFunc(xs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	for _, x := range xs {
		fmt.Fprintf(&b, "%d:%d:%s%s", len(x.Name), len(x.Value), x.Name, x.Value)
	}
	return b.String()
}

func unpackXattrs(s string) (xs []Xattr) {
	for s != "" {
		var n, v int
		if k, _ := fmt.Sscanf(s, "%d:%d:", &n, &v); k != 2 {
			return xs
		}
		_, s, _ = strings.Cut(s, ":")
		_, s, _ = strings.Cut(s, ":")
		xs = append(xs, Xattr{s[:n], s[n : n+v]})
		s = s[n+v:]
	}
	return xs
}

// fill sets the attributes of e from an inode.
func (t *Tree) fill(e *Entry, ino *inode) {
	*e = Entry{
		Path: e.Path, Mode: ino.mode, UID: ino.uid, GID: ino.gid, ModTime: ino.mtime,
		Size: ino.size, body: ino.body,
	}
	switch ino.mode & initramfs.TypeMask {
	case initramfs.TypeSymlink:
		e.Target = string(t.names.get(uint32(ino.body.at)))
	case initramfs.TypeBlock, initramfs.TypeChar:
		e.Major, e.Minor = uint32(ino.body.at>>32), uint32(ino.body.at)
	}
	if ino.xattrs != 0 {
		e.Xattrs = unpackXattrs(string(t.names.get(ino.xattrs - 1)))
	}
}

// Walk calls f for every name below the root: each directory before its content; in each directory first the
// subdirectories with everything below them, then the rest, both in the order of their names' bytes. (So the
// files beside an application's tree come after it, as docs/init-contract.md requires.) f must not keep e nor
// change the tree. An error of f ends the walk and is returned.
func (t *Tree) Walk(f func(e *Entry) error) error {
	w := walker{t: t, f: f, links: map[uint32]uint32{}, number: map[uint32]uint32{}}
	// Links are counted first: the first name of a file must already say how many there are.
	w.count(t.root, make([]uint64, t.inodes.n/64+1))
	return w.walk(t.root, nil)
}

type walker struct {
	t      *Tree
	f      func(e *Entry) error
	links  map[uint32]uint32 // of inodes with more than one name
	number map[uint32]uint32 // of inodes with more than one name that have been visited
	next   uint32
	e      Entry
}

// count finds the inodes with more than one name. seen is a set of bits.
func (w *walker) count(dir uint32, seen []uint64) {
	for id := w.t.nodes.at(dir).child; id != 0; id = w.t.nodes.at(id).next {
		ino := w.t.nodes.at(id).inode
		if seen[ino/64]>>(ino%64)&1 != 0 {
			w.links[ino] = max(w.links[ino], 1) + 1
		}
		seen[ino/64] |= 1 << (ino % 64)
		w.count(id, seen)
	}
}

func (w *walker) walk(dir uint32, prefix []byte) error {
	t := w.t
	var ids []uint32
	for id := t.nodes.at(dir).child; id != 0; id = t.nodes.at(id).next {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uint32) int {
		if a, b := t.isDir(a), t.isDir(b); a != b {
			if a {
				return -1
			}
			return 1
		}
		return bytes.Compare(t.names.get(t.nodes.at(a).name), t.names.get(t.nodes.at(b).name))
	})
	for _, id := range ids {
		n := t.nodes.at(id)
		path := append(prefix, t.names.get(n.name)...)
		e := &w.e
		e.Path = string(path)
		t.fill(e, t.inodes.at(n.inode))
		known := w.number[n.inode]
		e.Inode, e.Links, e.First = known, max(w.links[n.inode], 1), known == 0
		if e.First {
			w.next++
			e.Inode = w.next
			if e.Links > 1 {
				w.number[n.inode] = w.next
			}
		}
		if err := w.f(e); err != nil {
			return err
		}
		if n.child != 0 {
			if err := w.walk(id, append(path, '/')); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sub finds or creates the directory at path, and returns the part of the tree below it as a tree of its own:
// symbolic links do not lead out of it. It is closed with the whole tree.
func (t *Tree) Sub(path string) (*Tree, error) {
	root, err := t.makeDir(path)
	return &Tree{t.tables, root}, err
}

// makeDir finds or creates the directory at path, for changes that no layer brings.
func (t *Tree) makeDir(path string) (uint32, error) {
	t.layers++
	return t.resolve(t.root, path, true, &merge{t: t, root: t.root, layer: uint16(t.layers)})
}

// Lookup finds an entry by its path. It follows symbolic links on the way, within the tree, but not the last
// part.
func (t *Tree) Lookup(path string) (*Entry, bool) {
	id, err := t.find(t.root, path)
	if err != nil || id == 0 {
		return nil, false
	}
	e := &Entry{Path: path}
	t.fill(e, t.inodes.at(t.nodes.at(id).inode))
	return e, true
}

// Put creates an entry with the given content, or replaces the existing one: a directory over a directory
// changes its attributes and keeps its content. Missing parents are created with mode 0755; symbolic links on
// the way are followed within the tree. The content may be nil if there is none.
func (t *Tree) Put(e *Entry, content []byte) error {
	c := *e
	c.body = body{}
	if e.IsRegular() {
		c.Size = int64(len(content))
		if c.Size > 0 {
			if err := t.keep(&c, content); err != nil {
				return fmt.Errorf("%s: %w", e.Path, err)
			}
		}
	}
	return t.place(&c)
}

// Remove removes an entry and everything below it. It is no error if the entry does not exist.
func (t *Tree) Remove(path string) error {
	id, err := t.find(t.root, path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if id != 0 && id != t.root {
		t.remove(id)
	}
	return nil
}

// PutFile is Put with the bytes of a file of this machine. The tree keeps its own handle of it.
func (t *Tree) PutFile(e *Entry, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	t.CloseLater(f)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return t.PutPart(e, f, 0, info.Size())
}

// PutPart is Put with size bytes of f from byte at. The tree needs f until it is closed.
func (t *Tree) PutPart(e *Entry, f *os.File, at, size int64) error {
	c := *e
	var err error
	if c.body, err = t.from(bodies{file: f}); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	c.Size, c.body.at = size, at
	return t.place(&c)
}

func (t *Tree) place(e *Entry) error {
	t.layers++
	if t.layers > maxLayers {
		return &LimitError{What: "layers and files", Limit: maxLayers}
	}
	m := merge{t: t, root: t.root, layer: uint16(t.layers)}
	err := checkPath(e.Path)
	if err == nil {
		err = m.put(e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// from adds a place of bodies.
func (t *Tree) from(b bodies) (body, error) {
	if len(t.files) > 1<<16-1 {
		return body{}, &LimitError{What: "files that hold bodies", Limit: 1<<16 - 1}
	}
	t.files = append(t.files, b)
	return body{file: uint16(len(t.files) - 1)}, nil
}

// keep stores a content in memory if it is small.
func (t *Tree) keep(e *Entry, content []byte) error {
	if len(content) < arenaBlock/2 {
		at, err := t.names.put(string(content))
		e.body = body{file: inArena, at: int64(at)}
		return err
	}
	f, err := t.spool()
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	e.body, err = t.from(bodies{file: f})
	return err
}

// spool creates a temporary file for bodies. It is closed with the tree.
func (t *Tree) spool() (*os.File, error) {
	f, err := nameless(t.dir)
	if err == nil {
		t.CloseLater(f)
	}
	return f, err
}
