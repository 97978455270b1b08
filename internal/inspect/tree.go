package inspect

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// node is a name in a ramdisk or an erofs root, with everything but the content of files.
type node struct {
	path           string // from the root of the ramdisk or image
	mode, uid, gid uint32 // as stat(2) has them
	links          uint32
	major, minor   uint32 // of a device
	size           int64  // of a file, in bytes
	time           int64  // seconds since 1970
	target         string // of a symbolic link
	linkTo         string // the first name of the file, if this is another
	xattrs         string // name="value" …; archives have none
}

func (n *node) is(kind uint32) bool { return n.mode&initramfs.TypeMask == kind }

// digest is that of a file's content.
type digest [sha256.Size]byte

// tree calls use for each of its nodes.
type tree func(use func(*node, digest) error) error

// archive returns the tree in a ramdisk.
func archive(ctx context.Context, w *walker, s eif.Section) tree {
	return func(use func(*node, digest) error) error {
		hash, buf := sha256.New(), make([]byte, 64<<10)
		return w.walk(s, func(h *initramfs.Header, body *initramfs.Reader) error {
			n, err := newNode(h, body)
			if err != nil {
				return fmt.Errorf("%q: %w", h.Name, err)
			}
			var sum digest
			if n.is(initramfs.TypeFile) && n.size > 0 {
				hash.Reset()
				if _, err := io.CopyBuffer(hash, body, buf); err != nil {
					return err
				}
				hash.Sum(sum[:0])
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return use(n, sum)
		})
	}
}

// newNode returns the node of an archive's entry. It reads the body of a symbolic link only, which
// [initramfs.Reader] limits.
func newNode(h *initramfs.Header, body io.Reader) (*node, error) {
	n := &node{
		path: h.Name, mode: h.Mode, uid: h.UID, gid: h.GID, links: h.Links, major: h.Major, minor: h.Minor,
		size: h.Size, time: int64(h.ModTime), linkTo: h.LinkTo,
	}
	if n.is(initramfs.TypeSymlink) {
		target := make([]byte, h.Size)
		if _, err := io.ReadFull(body, target); err != nil {
			return nil, err
		}
		n.target = string(target)
	}
	return n, nil
}

// modeText is a mode that is printed as ls -l does.
type modeText uint32

func (mode modeText) String() string {
	text := []byte("?rwxrwxrwx")
	text[0] = "?pc?d?b?-?l?s???"[mode>>12&15]
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			text[1+i] = '-'
		}
	}
	for i, letters := range []string{"sS", "sS", "tT"} { // setuid, setgid, sticky
		if mode>>(11-i)&1 != 0 {
			letter := letters[0]
			if text[3*(i+1)] == '-' {
				letter = letters[1]
			}
			text[3*(i+1)] = letter
		}
	}
	return string(text)
}

// The differences between two nodes of the same path that a caller of diffTrees may want to recognize.
const (
	onlyFirst  = "only the first file has it"
	onlySecond = "only the second file has it"
)

// entry is a node and the digest of its content.
type entry struct {
	*node
	digest
	at int // its place in its tree
}

// maxAlone is how many names of a tree diffTrees keeps that the other tree has not had yet. Tests set it.
var maxAlone = 1 << 18

// side is one of the trees of diffTrees.
type side struct {
	name, only string
	batches    chan []entry
	err        error // of the tree, set before batches is closed
	batch      []entry
	count      int
	dirs       map[uint64]struct{} // hashes of the names of directories
	again      map[string]entry    // the last entry of each directory that has several
	alone      map[string]entry    // entries that the other tree has not had yet
}

// read sends the entries of a tree, many at a time, until stop is closed. It always reads the whole tree.
func (s *side) read(t tree, stop <-chan struct{}) {
	const most = 256
	batch := make([]entry, 0, most)
	send := func() {
		select {
		case s.batches <- batch:
			batch = make([]entry, 0, most)
		case <-stop:
			batch = batch[:0]
		}
	}
	s.err = t(func(n *node, sum digest) error {
		if batch = append(batch, entry{node: n, digest: sum}); len(batch) == most {
			send()
		}
		return nil
	})
	send()
	close(s.batches)
}

// next returns the next entry, or one without a node at the end. It keeps further entries of a directory.
func (s *side) next(seed maphash.Seed) (entry, error) {
	for {
		for len(s.batch) == 0 {
			var more bool
			if s.batch, more = <-s.batches; !more {
				return entry{}, s.err
			}
		}
		e := s.batch[0]
		s.batch = s.batch[1:]
		if e.is(initramfs.TypeDir) {
			id := maphash.String(seed, e.path)
			if _, ok := s.dirs[id]; ok {
				s.again[e.path] = e
				if len(s.again) > maxAlone {
					return entry{}, fmt.Errorf("more than %d directories twice: too many to compare",
						maxAlone)
				}
				continue
			}
			s.dirs[id] = struct{}{}
		}
		s.count++
		e.at = s.count
		return e, nil
	}
}

// diffTrees calls say for each path whose nodes differ, first for those that both trees have. It returns
// whether the order of the nodes that both trees have differs. It reads both trees at a time, and keeps only
// nodes that the other tree has not had yet, so that equal trees need no memory for their names.
func diffTrees(a, b tree, say func(path, what string)) (moved bool, err error) {
	stop := make(chan struct{})
	var sides [2]*side
	var reading sync.WaitGroup
	defer reading.Wait()
	defer close(stop)
	for i, t := range []tree{a, b} {
		s := &side{
			name: []string{"first", "second"}[i], only: []string{onlyFirst, onlySecond}[i],
			batches: make(chan []entry, 4), dirs: map[uint64]struct{}{},
			again: map[string]entry{}, alone: map[string]entry{},
		}
		sides[i] = s
		reading.Go(func() { s.read(t, stop) })
	}
	match := func(a, b entry) {
		moved = moved || a.at != b.at
		if what := compare(a.node, b.node, a.digest == b.digest); what != "" {
			say(a.path, what)
		}
	}
	seed := maphash.MakeSeed()
	for {
		var now [2]entry
		for i, s := range sides {
			if now[i], err = s.next(seed); err != nil {
				return false, fmt.Errorf("the %s file: %w", s.name, err)
			}
		}
		if now[0].node == nil && now[1].node == nil {
			break
		}
		if now[0].node != nil && now[1].node != nil && now[0].path == now[1].path {
			match(now[0], now[1])
			continue
		}
		for i, e := range now {
			if e.node == nil {
				continue
			}
			other := sides[1-i].alone
			old, ok := other[e.path]
			if !ok {
				sides[i].alone[e.path] = e
				if len(sides[i].alone) > maxAlone {
					return false, fmt.Errorf("more than %d names of the %s file are missing from the other, "+
						"or occur much later there: too many to compare", maxAlone, sides[i].name)
				}
				continue
			}
			delete(other, e.path)
			if i == 0 {
				match(e, old)
			} else {
				match(old, e)
			}
		}
	}
	for i, s := range sides {
		byPlace := func(a, b entry) int { return a.at - b.at }
		for _, e := range slices.SortedFunc(maps.Values(s.alone), byPlace) {
			say(e.path, s.only)
		}
		for _, path := range slices.Sorted(maps.Keys(s.again)) {
			switch other, ok := sides[1-i].again[path]; {
			case !ok:
				say(path, "only the "+s.name+" file has several entries of it")
			case i == 0:
				match(s.again[path], other)
			}
		}
	}
	return moved, nil
}

// compare returns how two nodes differ, or "".
func compare(a, b *node, sameContent bool) string {
	if sameContent && *a == *b {
		return ""
	}
	var what []string
	differ := func(different bool, format string, args ...any) {
		if different {
			what = append(what, fmt.Sprintf(format, args...))
		}
	}
	or := func(text string) string {
		if text == "" {
			return "none"
		}
		return text
	}
	differ(a.mode != b.mode, "mode %s and %s", modeText(a.mode), modeText(b.mode))
	differ(a.uid != b.uid || a.gid != b.gid, "owner %d:%d and %d:%d", a.uid, a.gid, b.uid, b.gid)
	differ(a.time != b.time, "time %d and %d", a.time, b.time)
	differ(a.major != b.major || a.minor != b.minor,
		"device %d:%d and %d:%d", a.major, a.minor, b.major, b.minor)
	differ(a.links != b.links, "%d and %d hard links", a.links, b.links)
	differ(a.linkTo != b.linkTo, "hard link to %q and %q", a.linkTo, b.linkTo)
	differ(a.target != b.target, "target %q and %q", a.target, b.target)
	differ(a.size != b.size && a.target == b.target, "size %d and %d", a.size, b.size)
	differ(a.size == b.size && !sameContent, "content")
	differ(a.xattrs != b.xattrs, "extended attributes %s and %s", or(a.xattrs), or(b.xattrs))
	return strings.Join(what, ", ")
}
