package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh." // names that aufs kept for itself
	whiteoutOpaque = ".wh..wh..opq"
)

// merge lays one layer over the tree below root. Names resolve as if root were "/": symbolic links never lead
// out of it.
type merge struct {
	t     *Tree
	root  uint32
	layer uint16
	plain bool // no name is a whiteout: the layer is a root file system
}

// checkPath rejects names that no honest tool writes. A leading slash is valid (Nix writes them): every name
// counts from the root of the image.
func checkPath(path string) error {
	switch {
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("invalid name %q: contains a NUL", path)
	case len(path) > maxLink:
		return fmt.Errorf("invalid name of %d bytes: expected at most %d", len(path), maxLink)
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "..":
			return errors.New(`invalid name: ".." would lead out of its directory`)
		case len(part) > maxName:
			return fmt.Errorf("invalid name: %.40q… has %d bytes between slashes, expected at most %d",
				part, len(part), maxName)
		}
	}
	return nil
}

// apply lays one entry of a layer over the tree. A whiteout hides what lower layers brought, never what its
// own layer brings, whichever comes first.
func (m *merge) apply(e *Entry, hardLinkTo string) error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	dir, base := split(e.Path)
	switch {
	case !m.plain && base == whiteoutOpaque:
		return m.hide(dir, "")
	case !m.plain && (strings.HasPrefix(e.Path, whiteoutMeta) || strings.Contains(e.Path, "/"+whiteoutMeta)):
		return nil
	case !m.plain && strings.HasPrefix(base, whiteout):
		hidden := base[len(whiteout):]
		if hidden == "" || hidden == "." || hidden == ".." {
			return fmt.Errorf("invalid whiteout of %q", hidden)
		}
		return m.hide(dir, hidden)
	case hardLinkTo != "":
		if err := checkPath(hardLinkTo); err != nil {
			return fmt.Errorf("hard link to %q: %w", hardLinkTo, err)
		}
		return m.link(e.Path, hardLinkTo)
	}
	return m.put(e)
}

// split cuts the last part off a path. A path to the root has none.
func split(path string) (dir, base string) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	dir, base = path[:i+1], path[i+1:]
	if base == "." {
		return split(dir)
	}
	return dir, base
}

// put creates an entry, or replaces the existing one. Only a directory over a directory keeps its content.
func (m *merge) put(e *Entry) error {
	t := m.t
	dir, base := split(e.Path)
	if base == "" {
		if !e.IsDir() {
			return fmt.Errorf("invalid mode %o: the root of a tree must be a directory", e.Mode)
		}
		return nil // its attributes are ignored: Docker gives every container a root with mode 0755
	}
	parent, err := m.descend(dir)
	if err != nil {
		return err
	}
	ino, err := t.newInode(e)
	if err != nil {
		return err
	}
	old := t.lookup(parent, base)
	if old != 0 && e.IsDir() && t.isDir(old) {
		n := t.nodes.at(old)
		n.inode, n.layer = ino, m.layer
		return nil
	}
	return m.set(parent, base, old, ino)
}

// set makes a name of an inode, in place of the node old if that is not 0.
func (m *merge) set(parent uint32, base string, old, ino uint32) error {
	if old != 0 {
		m.t.empty(old)
		n := m.t.nodes.at(old)
		n.inode, n.layer, n.cleared = ino, m.layer, 0
		return nil
	}
	return m.t.add(parent, base, ino, m.layer)
}

// link makes path a name of the file at target.
func (m *merge) link(path, target string) error {
	t := m.t
	to, err := t.find(m.root, target)
	switch {
	case err != nil:
		return err
	case to == 0:
		return fmt.Errorf("hard link to %q, which is neither before it in this layer nor in a lower one",
			target)
	case t.isDir(to):
		return fmt.Errorf("hard link to %s, which is a directory", target)
	}
	dir, base := split(path)
	if base == "" {
		return errors.New("invalid hard link: the root of a tree must be a directory")
	}
	ino := t.nodes.at(to).inode
	parent, err := m.descend(dir)
	if err != nil {
		return err
	}
	old := t.lookup(parent, base)
	if old == to {
		return errors.New("hard link to itself")
	}
	return m.set(parent, base, old, ino)
}

// hide removes a name that lower layers brought from a directory, or all of them if base is empty.
func (m *merge) hide(dir, base string) error {
	t := m.t
	id, err := t.find(m.root, dir)
	if err != nil || id == 0 {
		return err
	}
	// Stands for the directory it leads to, as in names of entries.
	if t.fileType(id) == initramfs.TypeSymlink {
		if id, err = t.resolve(m.root, dir, false, nil); err != nil {
			return err
		}
	}
	switch {
	case id == 0 || !t.isDir(id):
	case base == "":
		m.clear(id)
	default:
		if id = t.lookup(id, base); id != 0 {
			m.drop(id)
		}
	}
	return nil
}

// clear hides what lower layers brought below a directory, and reports whether anything is left there.
func (m *merge) clear(dir uint32) (left bool) {
	t := m.t
	n := t.nodes.at(dir)
	if n.cleared != m.layer {
		for id := n.child; id != 0; {
			next := t.nodes.at(id).next
			m.drop(id)
			id = next
		}
		n.cleared = m.layer
	}
	return n.child != 0
}

// drop hides a node unless this layer brought it or something below it, and reports whether it is still
// there.
func (m *merge) drop(id uint32) (left bool) {
	t := m.t
	n := t.nodes.at(id)
	below := n.child != 0 && m.clear(id)
	switch {
	case n.layer == m.layer:
		return true
	case below: // the rest is a directory that only names of this layer imply
		n.inode, n.layer = t.impliedDir(), m.layer
		return true
	}
	t.remove(id)
	return false
}

// descend finds the directory at path and creates what is missing of it.
func (m *merge) descend(path string) (uint32, error) {
	return m.t.resolve(m.root, path, true, m)
}

// find returns the node at path. It follows symbolic links on the way but not the last part. 0 is none.
func (t *Tree) find(root uint32, path string) (uint32, error) {
	dir, base := split(path)
	parent, err := t.resolve(root, dir, false, nil)
	if err != nil || parent == 0 || base == "" {
		return parent, err
	}
	return t.lookup(parent, base), nil
}

// resolve finds the directory at path, as the kernel would with root as "/". With create it creates what is
// missing, and replaces what is not a directory, through m; otherwise it returns 0 for those.
func (t *Tree) resolve(root uint32, path string, create bool, m *merge) (uint32, error) {
	at, rest, hops := root, path, 0
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if at != root {
				at = t.nodes.at(at).parent
			}
			continue
		}
		id := t.lookup(at, part)
		switch {
		case id != 0 && t.isDir(id):
			at = id
			continue
		case id != 0 && t.fileType(id) == initramfs.TypeSymlink:
			target := string(t.names.get(uint32(t.inodes.at(t.nodes.at(id).inode).body.at)))
			// A short name can lead through long targets again and again.
			if t.links += int64(len(target) + len(rest)); t.links > t.limits.links() {
				return 0, &LimitError{"bytes of symbolic links in the paths of names", t.limits.links(),
					"Entries"}
			}
			if hops++; hops > maxHops || len(target)+len(rest) > 2*maxLink {
				return 0, fmt.Errorf("%s leads through more than %d symbolic links, or to a path of more "+
					"than %d bytes",
					path, maxHops, maxLink)
			}
			if strings.HasPrefix(target, "/") {
				at = root
			}
			rest = target + "/" + rest
			continue
		case !create:
			return 0, nil
		}
		if len(part) > maxName {
			return 0, fmt.Errorf("symbolic link in the path leads to a name of %d bytes, expected at most %d",
				len(part), maxName)
		}
		if err := m.set(at, part, id, t.impliedDir()); err != nil {
			return 0, err
		}
		at = t.lookup(at, part)
	}
	return at, nil
}

// graft moves everything below root to the directory at prefix, over what is there.
func (t *Tree) graft(root uint32, prefix string) error {
	at, err := t.makeDir(prefix)
	if err != nil {
		return err
	}
	return t.overlay(at, at, root)
}

// overlay moves everything below from to the directory to, which is in top, as if a second archive were
// unpacked over the first. A directory over a symbolic link to a directory goes where the link leads, with
// top as "/".
func (t *Tree) overlay(top, to, from uint32) error {
	for id := t.nodes.at(from).child; id != 0; {
		n := t.nodes.at(id)
		next := n.next
		old := t.lookup(to, string(t.names.get(n.name)))
		dir := old
		if t.isDir(id) && old != 0 && t.fileType(old) == initramfs.TypeSymlink {
			var err error
			if dir, err = t.resolve(top, t.path(top, old), false, nil); err != nil {
				return err
			}
		}
		switch {
		case dir != 0 && t.isDir(dir) && t.isDir(id):
			if dir == old {
				t.nodes.at(old).inode = n.inode
			}
			if err := t.overlay(top, dir, id); err != nil {
				return err
			}
			t.remove(id)
		case dir != 0 && t.nodes.at(dir).child != 0:
			return fmt.Errorf("%s is not a directory: it would replace one that is not empty",
				t.path(top, old))
		default:
			if old != 0 {
				t.remove(old)
			}
			t.detach(id)
			t.attach(id, to)
		}
		id = next
	}
	return nil
}

// path returns the path from top to a node below it.
func (t *Tree) path(top, id uint32) string {
	n := t.nodes.at(id)
	name := string(t.names.get(n.name))
	if n.parent == top {
		return name
	}
	return t.path(top, n.parent) + "/" + name
}
