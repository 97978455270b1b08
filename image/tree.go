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
)

// File types, as the upper four bits of a mode hold them (stat(2), S_IFMT).
const (
	typeMask    = 0o170000
	typeSocket  = 0o140000
	typeSymlink = 0o120000
	typeFile    = 0o100000
	typeBlock   = 0o060000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeFifo    = 0o010000
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
	// Inode and Links are set by Walk: entries with the same number are hard links to one file, which has Links names
	// in the whole tree. Numbers count from 1 in the order of the walk.
	Inode, Links uint32
	// First is set by Walk at the first name of an inode.
	First bool

	body body
}

// Xattr is an extended attribute (xattr(7)) of a file.
type Xattr struct{ Name, Value string }

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&typeMask == typeDir }

// IsRegular says whether the entry is a file with bytes.
func (e *Entry) IsRegular() bool { return e.Mode&typeMask == typeFile }

// node is a name in a directory.
type node struct {
	parent  uint32
	next    uint32 // the next name in the same directory, 0 at the end
	prev    uint32 // the one before, 0 for the first
	child   uint32 // the first name in this directory
	inode   uint32
	name    uint32 // in the arena
	layer   uint16 // that brought it
	cleared uint16 // the last layer that hid what lower ones have below it
}

// inode is what hard links share.
type inode struct {
	mode, uid, gid uint32
	xattrs         uint32 // in the arena, plus one; 0 for none
	mtime          int64
	size           int64
	body           body
}

// body is where the bytes of a file are: in which of the tree's files, from which byte. For a symbolic link it is the arena
// that has them, for a device node it is its numbers.
type body struct {
	file uint16
	at   int64
}

// Tree is a file tree whose names are in memory and whose bodies stay in files. It is not safe for use by several
// goroutines. Close it to free what it holds on disk.
type Tree struct {
	nodes   slab[node]
	inodes  slab[inode]
	names   arena
	table   []uint32 // open addressing: 0 empty, gone, or a node
	used    int      // slots that are not empty
	live    int      // slots that hold a node
	seed    maphash.Seed
	files   []bodies
	limits  Limits
	dir     string
	root    uint32
	budget  *budget
	layers  int        // counted over all images
	links   int64      // bytes of targets and what stood behind them, for all symbolic links that were followed
	closing sync.Mutex // of closer: layers are read at the same time
	closer  []io.Closer
	window  window
}

// bodies is where bodies are: a file with all of one layer's, or the directory of the machine that a tree was read from.
type bodies struct {
	file *os.File
	root *os.Root // bodies are files in it; their path is in the arena
}

// gone is in a slot of the table that had a node: what stood behind it must still be found.
const gone = 1<<32 - 1

const (
	inArena = 0 // the first of Tree.files stands for the arena
	maxLink = 4095
	maxName = 255
	// maxHops is how many symbolic links a path may lead through, as path_resolution(7) has it.
	maxHops = 40
)

// NewTree makes an empty tree. Bodies that have to be kept on disk go into files without a name in dir, or in
// os.TempDir() when dir is "". They need the space of all layers, unpacked.
func NewTree(dir string, limits Limits) *Tree {
	limits = limits.orDefault()
	t := &Tree{seed: maphash.MakeSeed(), limits: limits, budget: newBudget(limits), dir: dir, table: make([]uint32, 1024), files: make([]bodies, 1)}
	t.names.limit = limits.names()
	t.nodes.add(node{}) // index 0 means none
	t.inodes.add(inode{})
	t.root = t.newRoot()
	return t
}

// newRoot makes a directory without a name: the root of a tree, or of an image before it stands in its place.
func (t *Tree) newRoot() uint32 {
	name, _ := t.names.put("")
	return t.nodes.add(node{inode: t.inodes.add(inode{mode: typeDir | 0o755}), name: name})
}

// Close frees the files that hold bodies. The tree cannot be used any more.
func (t *Tree) Close() error {
	var errs []error
	for _, c := range t.closer {
		errs = append(errs, c.Close())
	}
	t.closer, t.files = nil, nil
	return errors.Join(errs...)
}

// slot is where the search for a name begins, given the name's hash.
func (t *Tree) slot(parent uint32, name uint64) uint64 {
	return (name ^ uint64(parent)*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9 >> 20 & uint64(len(t.table)-1)
}

// lookup finds a name in a directory; 0 is none.
func (t *Tree) lookup(parent uint32, name string) uint32 {
	mask := uint64(len(t.table) - 1)
	for i := t.slot(parent, maphash.String(t.seed, name)); t.table[i] != 0; i = (i + 1) & mask {
		if t.table[i] == gone {
			continue
		}
		n := t.nodes.at(t.table[i])
		if n.parent == parent && string(t.names.get(n.name)) == name {
			return t.table[i]
		}
	}
	return 0
}

// add makes a name in a directory, which must not be there.
func (t *Tree) add(parent uint32, name string, ino uint32, layer uint16) (uint32, error) {
	if int64(t.nodes.n) > t.limits.Entries {
		return 0, &LimitError{What: "entries", Limit: t.limits.Entries, Field: "Entries"}
	}
	at, err := t.names.put(name)
	if err != nil {
		return 0, err
	}
	id := t.nodes.add(node{inode: ino, name: at, layer: layer})
	t.attach(id, parent)
	return id, nil
}

// attach puts a node that is in no directory into one.
func (t *Tree) attach(id, parent uint32) {
	n, dir := t.nodes.at(id), t.nodes.at(parent)
	n.parent, n.prev, n.next = parent, 0, dir.child
	if n.next != 0 {
		t.nodes.at(n.next).prev = id
	}
	dir.child = id
	t.index(id)
}

// detach takes a node out of its directory, with all that is below it.
func (t *Tree) detach(id uint32) {
	t.unindex(id)
	n := t.nodes.at(id)
	if n.prev != 0 {
		t.nodes.at(n.prev).next = n.next
	} else {
		t.nodes.at(n.parent).child = n.next
	}
	if n.next != 0 {
		t.nodes.at(n.next).prev = n.prev
	}
}

// remove takes a node and all that is below it out of the tree.
func (t *Tree) remove(id uint32) {
	t.empty(id)
	t.detach(id)
}

// empty takes all that is below a node out of the tree. Every node is taken out once at most, so that this costs no more than
// they did when they came.
func (t *Tree) empty(id uint32) {
	for todo := []uint32{id}; len(todo) > 0; {
		n := t.nodes.at(todo[len(todo)-1])
		todo = todo[:len(todo)-1]
		for id := n.child; id != 0; id = t.nodes.at(id).next {
			t.unindex(id)
			if t.nodes.at(id).child != 0 {
				todo = append(todo, id)
			}
		}
		n.child = 0
	}
}

// index makes a node known by its directory and name.
func (t *Tree) index(id uint32) {
	if t.used*4 >= len(t.table)*3 {
		old := t.table
		size := len(old)
		if t.live*2 >= size { // otherwise most slots hold what is gone, and the same size does
			size *= 2
		}
		t.table, t.used, t.live = make([]uint32, size), 0, 0
		for _, o := range old {
			if o != 0 && o != gone {
				t.index(o)
			}
		}
	}
	n := t.nodes.at(id)
	mask := uint64(len(t.table) - 1)
	i := t.slot(n.parent, maphash.Bytes(t.seed, t.names.get(n.name)))
	for t.table[i] != 0 && t.table[i] != gone {
		i = (i + 1) & mask
	}
	if t.table[i] == 0 {
		t.used++
	}
	t.table[i] = id
	t.live++
}

// unindex undoes index.
func (t *Tree) unindex(id uint32) {
	n := t.nodes.at(id)
	mask := uint64(len(t.table) - 1)
	i := t.slot(n.parent, maphash.Bytes(t.seed, t.names.get(n.name)))
	for t.table[i] != id {
		i = (i + 1) & mask
	}
	t.live--
	if t.table[(i+1)&mask] != 0 {
		t.table[i] = gone
		return
	}
	// Nothing stands behind it, nor then behind those before it that are gone.
	for t.table[i] = 0; ; t.table[i] = 0 {
		t.used--
		if i = (i - 1) & mask; t.table[i] != gone {
			return
		}
	}
}

func (t *Tree) isDir(id uint32) bool {
	return t.inodes.at(t.nodes.at(id).inode).mode&typeMask == typeDir
}

// newInode keeps the attributes of e.
func (t *Tree) newInode(e *Entry) (uint32, error) {
	ino := inode{mode: e.Mode, uid: e.UID, gid: e.GID, mtime: e.ModTime, size: e.Size, body: e.body}
	switch e.Mode & typeMask {
	case typeSymlink:
		if e.Target == "" || len(e.Target) > maxLink || strings.IndexByte(e.Target, 0) >= 0 {
			return 0, fmt.Errorf("a symbolic link points to 1 to %d bytes without a NUL, not to %.40q (%d bytes)", maxLink, e.Target, len(e.Target))
		}
		at, err := t.names.put(e.Target)
		if err != nil {
			return 0, err
		}
		ino.body, ino.size = body{file: inArena, at: int64(at)}, 0
	case typeBlock, typeChar:
		ino.body, ino.size = body{at: int64(e.Major)<<32 | int64(e.Minor)}, 0
	case typeFile:
		if e.Size < 0 {
			return 0, fmt.Errorf("a size of %d bytes", e.Size)
		}
	case typeDir, typeFifo, typeSocket:
		ino.body, ino.size = body{}, 0
	default:
		return 0, fmt.Errorf("mode %o has no known file type", e.Mode)
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

func unpackXattrs(s string) []Xattr {
	var xs []Xattr
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
	e.Mode, e.UID, e.GID, e.ModTime = ino.mode, ino.uid, ino.gid, ino.mtime
	e.Size, e.Target, e.Major, e.Minor, e.Xattrs = 0, "", 0, 0, nil
	e.body = ino.body
	switch ino.mode & typeMask {
	case typeFile:
		e.Size = ino.size
	case typeSymlink:
		e.Target = string(t.names.get(uint32(ino.body.at)))
	case typeBlock, typeChar:
		e.Major, e.Minor = uint32(ino.body.at>>32), uint32(ino.body.at)
	}
	if ino.xattrs != 0 {
		e.Xattrs = unpackXattrs(string(t.names.get(ino.xattrs - 1)))
	}
}

// Walk calls f for every name below the root: each directory before what it holds; in each, first the directories with
// all that is below them, then the rest, both in the order of their names' bytes. (So the files beside an
// application's tree come after it, as docs/init-contract.md wants.) f must not keep e nor change the tree. An error of f ends the walk and is returned.
func (t *Tree) Walk(f func(e *Entry) error) error {
	// Links are counted first: a file's first name must already say how many there are.
	links := t.shared()
	w := walker{t: t, f: f, links: links, number: map[uint32]uint32{}}
	return w.walk(t.root, nil)
}

// shared finds the inodes with more than one name, and how many they have.
func (t *Tree) shared() map[uint32]uint32 {
	seen := make([]uint64, t.inodes.n/64+1)
	shared := map[uint32]uint32{}
	var visit func(dir uint32)
	visit = func(dir uint32) {
		for id := t.nodes.at(dir).child; id != 0; id = t.nodes.at(id).next {
			n := t.nodes.at(id)
			if seen[n.inode/64]>>(n.inode%64)&1 != 0 {
				shared[n.inode] = max(shared[n.inode], 1) + 1
			}
			seen[n.inode/64] |= 1 << (n.inode % 64)
			visit(id)
		}
	}
	visit(t.root)
	return shared
}

type walker struct {
	t      *Tree
	f      func(e *Entry) error
	links  map[uint32]uint32 // of inodes with more than one name
	number map[uint32]uint32 // that those have been given
	next   uint32
	e      Entry
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
		e.Links, e.First = 1, true
		if k := w.links[n.inode]; k > 1 {
			e.Links = k
			if known := w.number[n.inode]; known != 0 {
				e.Inode, e.First = known, false
			} else {
				w.next++
				e.Inode = w.next
				w.number[n.inode] = w.next
			}
		} else {
			w.next++
			e.Inode = w.next
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

// Sub is the part of a tree below one of its directories, as if that were the root: symbolic links do not lead out of it.
type Sub struct {
	t    *Tree
	root uint32
}

// Sub finds or makes the directory at path.
func (t *Tree) Sub(path string) (*Sub, error) {
	t.layers++
	root, err := t.resolve(t.root, path, true, &merge{t: t, root: t.root, layer: uint16(t.layers)})
	return &Sub{t, root}, err
}

// Lookup is [Tree.Lookup] below the directory.
func (s *Sub) Lookup(path string) (*Entry, bool) { return s.t.lookupIn(s.root, path) }

// Put is [Tree.Put] below the directory.
func (s *Sub) Put(e *Entry, content []byte) error { return s.t.putIn(s.root, e, content) }

// Remove is [Tree.Remove] below the directory.
func (s *Sub) Remove(path string) error { return s.t.removeIn(s.root, path) }

// CloseLater closes c when the tree is closed: an image whose layers the tree reads from.
func (t *Tree) CloseLater(c io.Closer) {
	t.closing.Lock()
	defer t.closing.Unlock()
	t.closer = append(t.closer, c)
}

// Lookup finds an entry by its path; symbolic links on the way are followed within the tree, the last part is not.
func (t *Tree) Lookup(path string) (*Entry, bool) { return t.lookupIn(t.root, path) }

func (t *Tree) lookupIn(root uint32, path string) (*Entry, bool) {
	id, err := t.find(root, path)
	if err != nil || id == 0 {
		return nil, false
	}
	e := &Entry{Path: path}
	t.fill(e, t.inodes.at(t.nodes.at(id).inode))
	return e, true
}

// Put makes an entry with the given content, or replaces what is there: a directory over a directory changes its
// attributes and keeps what it holds. Parents that are missing are made with mode 0755, symbolic links on the way
// are followed within the tree. The content, of e.Size bytes, may be nil where there is none.
func (t *Tree) Put(e *Entry, content []byte) error { return t.putIn(t.root, e, content) }

func (t *Tree) putIn(root uint32, e *Entry, content []byte) error {
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
	return t.place(root, &c)
}

// PutReader is Put with bytes that are read to the end and kept on disk.
func (t *Tree) PutReader(e *Entry, r io.Reader) error {
	f, err := t.spool()
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	c := *e
	if c.Size, err = io.Copy(f, r); err == nil {
		c.body, err = t.from(bodies{file: f})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return t.place(t.root, &c)
}

// PutFile is Put with the bytes of a file of the machine. The tree keeps its own handle of it.
func (t *Tree) PutFile(e *Entry, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	t.CloseLater(f)
	c := *e
	c.Size = info.Size()
	c.body, err = t.from(bodies{file: f})
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return t.place(t.root, &c)
}

// Remove takes an entry, and all below it, out of the tree; one that is not there is no error.
func (t *Tree) Remove(path string) error { return t.removeIn(t.root, path) }

func (t *Tree) removeIn(root uint32, path string) error {
	id, err := t.find(root, path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if id != 0 && id != root {
		t.remove(id)
	}
	return nil
}

func (t *Tree) place(root uint32, e *Entry) error {
	t.layers++
	if t.layers > maxLayers {
		return &LimitError{What: "layers and files put in place", Limit: maxLayers}
	}
	m := merge{t: t, root: root, layer: uint16(t.layers)}
	err := checkPath(e.Path)
	if err == nil {
		err = m.put(e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// from makes a place that bodies come from known to the tree.
func (t *Tree) from(b bodies) (body, error) {
	if len(t.files) > 1<<16-1 {
		return body{}, &LimitError{What: "files that hold bodies", Limit: 1<<16 - 1}
	}
	t.files = append(t.files, b)
	return body{file: uint16(len(t.files) - 1)}, nil
}

// keep stores a small content in the arena.
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

// spool makes a file without a name for bodies. It is freed with the tree.
func (t *Tree) spool() (*os.File, error) {
	f, err := nameless(t.dir)
	if err == nil {
		t.CloseLater(f)
	}
	return f, err
}
