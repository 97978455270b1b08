package inspect

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

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
func archive(ctx context.Context, f *eif.File, s eif.Section) tree {
	return func(use func(*node, digest) error) error {
		sum, buf := sha256.New(), make([]byte, 64<<10)
		return walkRamdisk(f, s, func(h *initramfs.Header, body *initramfs.Reader) error {
			n, err := newNode(h, body)
			if err != nil {
				return fmt.Errorf("%q: %w", h.Name, err)
			}
			sum.Reset()
			if _, err := io.CopyBuffer(sum, body, buf); err != nil {
				return err
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return use(n, digest(sum.Sum(nil)))
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
		target, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		n.target = string(target)
	}
	return n, nil
}

// modeText returns a mode as ls -l prints it.
func modeText(mode uint32) string {
	text := []byte(fmt.Sprintf("%crwxrwxrwx", "?pc?d?b?-?l?s???"[mode>>12&15]))
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

// diffTrees calls say for each path whose nodes differ. It returns whether the order of the nodes that both
// trees have differs.
func diffTrees(a, b tree, say func(path, what string)) (moved bool, err error) {
	type seen struct {
		*node
		digest
		again bool
	}
	nodes := map[string]*seen{}
	var paths []string
	err = a(func(n *node, sum digest) error {
		if _, twice := nodes[n.path]; !twice {
			paths = append(paths, n.path)
		}
		nodes[n.path] = &seen{node: n, digest: sum}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("the first file: %w", err)
	}
	next := 0
	err = b(func(n *node, sum digest) error {
		old := nodes[n.path]
		if old == nil {
			say(n.path, onlySecond)
			return nil
		}
		// A path that the second tree lacks is not moved; one that comes later is.
		for next < len(paths) && paths[next] != n.path && !moved && !nodes[paths[next]].again {
			next++
		}
		if next < len(paths) && paths[next] == n.path {
			next++
		} else {
			moved = true
		}
		old.again = true
		if what := compare(old.node, n, old.digest == sum); what != "" {
			say(n.path, what)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("the second file: %w", err)
	}
	for _, path := range paths {
		if !nodes[path].again {
			say(path, onlyFirst)
		}
	}
	return moved, nil
}

// compare returns how two nodes differ, or "".
func compare(a, b *node, sameContent bool) string {
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
