package image

import (
	"encoding/binary"
	"errors"
)

// arena holds strings one after the other, each with its length before it, in blocks that never move: a tree of a
// million names is then a few dozen objects for the garbage collector and no copying as it grows.
type arena struct {
	blocks [][]byte
	limit  int64 // bytes in blocks, at most 4 GiB
}

const (
	arenaBlock = 1 << 20 // bytes in a block, and more than any string that is put in
	arenaBits  = 20
)

// put keeps s and returns where it is.
func (a *arena) put(s string) (uint32, error) {
	need := binary.MaxVarintLen32 + len(s)
	if need > arenaBlock {
		return 0, errors.New("a name or value of more than a mebibyte")
	}
	last := len(a.blocks) - 1
	if last < 0 || cap(a.blocks[last])-len(a.blocks[last]) < need {
		if int64(len(a.blocks)) >= a.limit>>arenaBits {
			return 0, &LimitError{What: "bytes of names, links and attributes (a limit that grows with that of the entries)", Limit: a.limit, Field: "Entries"}
		}
		size := arenaBlock
		if last < 0 {
			size = 16 << 10 // most trees built in tests and from a few files are small
		}
		a.blocks = append(a.blocks, make([]byte, 0, size))
		last++
		if need > size {
			a.blocks[last] = make([]byte, 0, arenaBlock)
		}
	}
	b := a.blocks[last]
	at := uint32(last)<<arenaBits | uint32(len(b))
	b = binary.AppendUvarint(b, uint64(len(s)))
	a.blocks[last] = append(b, s...)
	return at, nil
}

// get returns the bytes at at. They must not be changed.
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
