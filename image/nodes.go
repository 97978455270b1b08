package image

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
)

// This file is how a [Tree] stores names and attributes: in tables without pointers, so that the 2,000,000
// entries that are allowed take less than 300 MB, and the garbage collector has nothing to trace. Nodes with
// pointers and a map in each directory are simpler, but take 320 MB for as many files, and twice that if a
// hostile image has as many directories.

// node is a name in a directory.
type node struct {
	parent  uint32
	next    uint32 // the next name in the directory, 0 for none
	prev    uint32 // the previous one
	child   uint32 // the first name in this directory
	same    uint32 // the next node with the same key in the index
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

// body is the place of a file's bytes: in which of the tree's files, from which byte. The target of a
// symbolic link is in the arena. A device node has its numbers here.
type body struct {
	file uint16
	at   int64
}

// key is where the index has a name: by its directory and 32 bits of its hash. Nodes with the same key form a
// list.
func (t *Tree) key(parent uint32, name []byte) uint64 {
	return uint64(parent)<<32 | maphash.Bytes(t.seed, name)>>32
}

// lookup finds a name in a directory; 0 is none.
func (t *Tree) lookup(parent uint32, name string) uint32 {
	id := t.index[uint64(parent)<<32|maphash.String(t.seed, name)>>32]
	for id != 0 && string(t.names.get(t.nodes.at(id).name)) != name {
		id = t.nodes.at(id).same
	}
	return id
}

// add creates a name in a directory, which must not have it.
func (t *Tree) add(parent uint32, name string, ino uint32, layer uint16) error {
	if int64(t.nodes.n) > t.limits.Entries {
		return &LimitError{What: "entries", Limit: t.limits.Entries, Field: "Entries"}
	}
	at, err := t.names.put(name)
	if err != nil {
		return err
	}
	t.attach(t.nodes.add(node{inode: ino, name: at, layer: layer}), parent)
	return nil
}

// attach puts a node that is in no directory into one.
func (t *Tree) attach(id, parent uint32) {
	n, dir := t.nodes.at(id), t.nodes.at(parent)
	n.parent, n.prev, n.next = parent, 0, dir.child
	if n.next != 0 {
		t.nodes.at(n.next).prev = id
	}
	dir.child = id
	key := t.key(parent, t.names.get(n.name))
	n.same, t.index[key] = t.index[key], id
}

// detach takes a node out of its directory, with everything below it.
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

// unindex makes lookup forget a node.
func (t *Tree) unindex(id uint32) {
	n := t.nodes.at(id)
	key := t.key(n.parent, t.names.get(n.name))
	first := t.index[key]
	switch {
	case first != id:
		for t.nodes.at(first).same != id {
			first = t.nodes.at(first).same
		}
		t.nodes.at(first).same = n.same
	case n.same != 0:
		t.index[key] = n.same
	default:
		delete(t.index, key)
	}
}

// remove takes a node and everything below it out of the tree.
func (t *Tree) remove(id uint32) {
	t.empty(id)
	t.detach(id)
}

// empty takes everything below a node out of the tree. It takes each node out once at most, so that this
// costs no more than adding them did.
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

// arena holds strings, each with its length before it, in blocks that never move.
type arena struct {
	blocks [][]byte
	limit  int64 // bytes in blocks, at most 4 GiB
}

const (
	arenaBlock = 1 << 20 // bytes in a block, and more than any string
	arenaBits  = 20
)

// put stores s and returns its place.
func (a *arena) put(s string) (uint32, error) {
	need := binary.MaxVarintLen32 + len(s)
	if need > arenaBlock {
		return 0, errors.New("name or value is larger than 1 MiB")
	}
	last := len(a.blocks) - 1
	if last < 0 || cap(a.blocks[last])-len(a.blocks[last]) < need {
		if int64(len(a.blocks)) >= a.limit>>arenaBits {
			return 0, &LimitError{"bytes of names, links and attributes", a.limit, "Entries"}
		}
		last++
		a.blocks = append(a.blocks, make([]byte, 0, arenaBlock))
	}
	b := a.blocks[last]
	at := uint32(last)<<arenaBits | uint32(len(b))
	b = binary.AppendUvarint(b, uint64(len(s)))
	a.blocks[last] = append(b, s...)
	return at, nil
}

// get returns the bytes at a place. They must not be changed.
func (a *arena) get(at uint32) []byte {
	b := a.blocks[at>>arenaBits][at&(arenaBlock-1):]
	n, used := binary.Uvarint(b)
	return b[used:][:n:n]
}

// slab is a growing table whose elements never move.
type slab[T any] struct {
	blocks [][]T
	n      uint32
}

const slabBlock = 4096

func (s *slab[T]) add(v T) uint32 {
	if s.n%slabBlock == 0 {
		s.blocks = append(s.blocks, make([]T, slabBlock))
	}
	at := s.n
	s.n++
	*s.at(at) = v
	return at
}

func (s *slab[T]) at(i uint32) *T { return &s.blocks[i/slabBlock][i%slabBlock] }
