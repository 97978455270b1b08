package image

import (
	"errors"
	"fmt"
	gopath "path"
	"strings"
)

const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh." // what aufs kept for itself
	whiteoutOpaque = ".wh..wh..opq"
	// whiteoutLinks is the directory with what aufs had hard links to: its files are targets of links, and in no tree.
	whiteoutLinks = ".wh..wh.plnk"
)

// merge lays one layer over what is below root. Names resolve as if root were "/": symbolic links never lead out of it.
type merge struct {
	t     *Tree
	root  uint32
	layer uint16
	plnk  uint32     // the root of what stands in the layer's whiteoutLinks, 0 where it has none
	later []hardLink // whose target had not come yet
}

// hardLink is one by two strings in the tree's arena, which bounds them.
type hardLink struct{ path, target uint32 }

// checkPath refuses names that no layer made by honest tools has. A leading slash is fine (Nix writes them): every name
// counts from the root of the image.
func checkPath(path string) error {
	switch {
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("%q has a NUL", path)
	case len(path) > maxLink:
		return fmt.Errorf("a path of %d bytes, at most %d can be opened", len(path), maxLink)
	}
	for rest, more := path, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		switch {
		case part == "..":
			return errors.New(`".." in a name would lead out of where it stands`)
		case len(part) > maxName:
			return fmt.Errorf("%.40q… has %d bytes between slashes, at most %d can be opened", part, len(part), maxName)
		}
	}
	return nil
}

// apply lays one entry of a layer over the tree. Whiteouts hide what lower layers brought, never what this one did,
// whichever comes first in it.
func (m *merge) apply(e *Entry, hardLinkTo string) error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	dir, base := split(e.Path)
	switch {
	case strings.Contains(dir, whiteoutMeta) && below(dir):
		if name, ok := linked(e.Path); ok && e.IsRegular() && hardLinkTo == "" {
			return m.keepLinked(e, name)
		}
		return nil
	case base == whiteoutOpaque:
		return m.hide(dir, "")
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	case strings.HasPrefix(base, whiteout):
		hidden := base[len(whiteout):]
		if hidden == "" || hidden == "." || hidden == ".." {
			return fmt.Errorf("a whiteout of %q", hidden)
		}
		return m.hide(dir, hidden)
	case hardLinkTo != "":
		if err := checkPath(hardLinkTo); err != nil {
			return fmt.Errorf("hard link to %q: %w", hardLinkTo, err)
		}
		done, err := m.link(e.Path, hardLinkTo)
		if err != nil || done {
			return err
		}
		return m.postpone(e.Path, hardLinkTo)
	}
	return m.put(e)
}

// below says whether a directory is one that aufs kept for itself, or stands in one.
func below(dir string) bool {
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return true
		}
	}
	return false
}

// linked takes the directory whiteoutLinks off a path.
func linked(path string) (name string, ok bool) {
	if !strings.Contains(path, whiteoutLinks) {
		return "", false
	}
	return strings.CutPrefix(strings.TrimPrefix(gopath.Clean(path), "/"), whiteoutLinks+"/")
}

// keepLinked keeps a file for hard links alone.
func (m *merge) keepLinked(e *Entry, name string) error {
	if m.plnk == 0 {
		m.plnk = m.t.newRoot()
	}
	c := *e
	c.Path = name
	aside := merge{t: m.t, root: m.plnk, layer: m.layer}
	return aside.put(&c)
}

func (m *merge) postpone(path, target string) error {
	p, err := m.t.names.put(path)
	if err != nil {
		return err
	}
	to, err := m.t.names.put(target)
	m.later = append(m.later, hardLink{p, to})
	return err
}

// finish makes the hard links that stood before their targets in the layer.
func (m *merge) finish() error {
	for pass := 0; len(m.later) > 0; pass++ {
		var left []hardLink
		for _, l := range m.later {
			path, target := string(m.t.names.get(l.path)), string(m.t.names.get(l.target))
			done, err := m.link(path, target)
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			if !done {
				left = append(left, l)
			}
		}
		if len(left) > 0 {
			path, target := m.t.names.get(left[0].path), m.t.names.get(left[0].target)
			switch {
			case len(left) == len(m.later):
				return fmt.Errorf("%q: a hard link to %q, which is neither in this layer nor in one below", path, target)
			case pass == maxHops:
				return fmt.Errorf("%q: a hard link to %q, which is one to another, and so on for more than %d", path, target, maxHops)
			}
		}
		m.later = left
	}
	return nil
}

// split cuts the last part off a path; a path to the root itself has none.
func split(path string) (dir, base string) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	dir, base = path[:i+1], path[i+1:]
	if base == "." {
		return split(dir)
	}
	return dir, base
}

// put makes an entry, or replaces what stands there. Only a directory over a directory keeps what is below.
func (m *merge) put(e *Entry) error {
	t := m.t
	dir, base := split(e.Path)
	if base == "" {
		if !e.IsDir() {
			return fmt.Errorf("mode %o: the root of a tree is a directory", e.Mode)
		}
		return nil // its attributes are nobody's: Docker gives every container a root of its own, 0755
	}
	parent, err := m.descend(dir)
	if err != nil {
		return err
	}
	old := t.lookup(parent, base)
	if old != 0 && e.IsDir() && t.isDir(old) {
		ino, err := t.newInode(e)
		if err != nil {
			return err
		}
		n := t.nodes.at(old)
		n.inode, n.layer = ino, m.layer
		return nil
	}
	ino, err := t.newInode(e)
	if err != nil {
		return err
	}
	return m.set(parent, base, old, ino)
}

// set makes a name for an inode, in place of the node old if that is not 0.
func (m *merge) set(parent uint32, base string, old, ino uint32) error {
	if old != 0 {
		m.t.empty(old)
		n := m.t.nodes.at(old)
		n.inode, n.layer, n.cleared = ino, m.layer, 0
		return nil
	}
	_, err := m.t.add(parent, base, ino, m.layer)
	return err
}

// link makes path a name of the file at target, and says whether there is one.
func (m *merge) link(path, target string) (bool, error) {
	t := m.t
	root := m.root
	if name, ok := linked(target); ok {
		if root, target = m.plnk, name; root == 0 {
			return false, nil
		}
	}
	to, err := t.find(root, target)
	if err != nil || to == 0 {
		return false, err
	}
	if t.isDir(to) {
		return false, fmt.Errorf("a hard link to %s, which is a directory", target)
	}
	dir, base := split(path)
	if base == "" {
		return false, errors.New("the root of a tree is a directory")
	}
	ino := t.nodes.at(to).inode
	parent, err := m.descend(dir)
	if err != nil {
		return false, err
	}
	old := t.lookup(parent, base)
	if old == to {
		return false, errors.New("a hard link to itself")
	}
	return true, m.set(parent, base, old, ino)
}

// hide takes a name that lower layers brought out of a directory, or all of them when base is "".
func (m *merge) hide(dir, base string) error {
	t := m.t
	id, err := t.find(m.root, dir)
	if err != nil || id == 0 {
		return err
	}
	// A symbolic link to a directory is that directory here, as it is for entries.
	if id, err = t.follow(m.root, id, dir); err != nil || id == 0 || !t.isDir(id) {
		return err
	}
	if base == "" {
		m.clear(id)
		return nil
	}
	if id = t.lookup(id, base); id != 0 {
		m.drop(id)
	}
	return nil
}

// clear hides what lower layers brought below a directory, and says whether anything is left there.
func (m *merge) clear(dir uint32) (left bool) {
	t := m.t
	if n := t.nodes.at(dir); n.cleared == m.layer {
		return n.child != 0
	}
	for id := t.nodes.at(dir).child; id != 0; {
		next := t.nodes.at(id).next
		m.drop(id)
		id = next
	}
	n := t.nodes.at(dir)
	n.cleared = m.layer
	return n.child != 0
}

// drop hides a node unless this layer brought it or something below it, and says whether it is still there.
func (m *merge) drop(id uint32) (left bool) {
	t := m.t
	n := t.nodes.at(id)
	below := n.child != 0 && m.clear(id)
	switch {
	case n.layer == m.layer:
		return true
	case below: // what is left is a directory that only this layer's names imply
		n.inode, n.layer = t.impliedDir(), m.layer
		return true
	}
	t.remove(id)
	return false
}

// impliedDir is a directory that no layer describes: what mkdir -p would make.
func (t *Tree) impliedDir() uint32 {
	return t.inodes.add(inode{mode: typeDir | 0o755})
}

// descend finds the directory at path and makes what is missing of it.
func (m *merge) descend(path string) (uint32, error) {
	return m.t.resolve(m.root, path, true, m)
}

// find looks for what path names, following symbolic links on the way but not the last part. 0 is none.
func (t *Tree) find(root uint32, path string) (uint32, error) {
	dir, base := split(path)
	parent, err := t.resolve(root, dir, false, nil)
	if err != nil || parent == 0 || base == "" {
		return parent, err
	}
	return t.lookup(parent, base), nil
}

// follow goes on from a symbolic link to what it leads to. 0 is nowhere.
func (t *Tree) follow(root, id uint32, path string) (uint32, error) {
	if t.inodes.at(t.nodes.at(id).inode).mode&typeMask != typeSymlink {
		return id, nil
	}
	return t.resolve(root, path, false, nil)
}

// resolve finds the directory that path names from root, as the kernel would with root as "/". With make it creates what
// is missing, and puts directories in the place of what is none; otherwise it returns 0 for those.
func (t *Tree) resolve(root uint32, path string, make bool, m *merge) (uint32, error) {
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
		var ino *inode
		if id != 0 {
			ino = t.inodes.at(t.nodes.at(id).inode)
		}
		switch {
		case id != 0 && ino.mode&typeMask == typeDir:
			at = id
			continue
		case id != 0 && ino.mode&typeMask == typeSymlink:
			if hops++; hops > maxHops {
				return 0, fmt.Errorf("%s leads through more than %d symbolic links", path, maxHops)
			}
			target := string(t.names.get(uint32(ino.body.at)))
			// A short name can lead through long targets, time and again.
			if t.links += int64(len(target) + len(rest)); t.links > t.limits.links() {
				return 0, &LimitError{What: "bytes of symbolic links followed on the way of names (a limit that grows with that of the entries)", Limit: t.limits.links(), Field: "Entries"}
			}
			if strings.HasPrefix(target, "/") {
				at = root
			}
			if len(target)+len(rest) > 2*maxLink {
				return 0, fmt.Errorf("%s leads through symbolic links to a path of more than %d bytes", path, maxLink)
			}
			rest = target + "/" + rest
			continue
		case !make:
			return 0, nil
		}
		if len(part) > maxName {
			return 0, fmt.Errorf("a symbolic link on the way has a name of %d bytes", len(part))
		}
		if err := m.set(at, part, id, t.impliedDir()); err != nil {
			return 0, err
		}
		at = t.lookup(at, part)
	}
	return at, nil
}

// overlay moves what is below from to the directory to, over what is there: as a second archive does that the kernel
// unpacks over the first.
func (t *Tree) overlay(to, from uint32) {
	for id := t.nodes.at(from).child; id != 0; {
		n := t.nodes.at(id)
		next := n.next
		old := t.lookup(to, string(t.names.get(n.name)))
		if old != 0 && t.isDir(old) && t.isDir(id) {
			t.nodes.at(old).inode = n.inode
			t.overlay(old, id)
			t.remove(id)
		} else { // it changes hands, with all below it
			if old != 0 {
				t.remove(old)
			}
			t.detach(id)
			t.attach(id, to)
		}
		id = next
	}
}
