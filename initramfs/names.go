package initramfs

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
)

// What a Reader keeps in memory: a hash of each name and 8 bytes beside it, before a map's overhead, and the
// first names of files with several, in bytes. A compressed ramdisk of some megabytes can have a thousand
// times as many.
const (
	maxNames  = 1 << 22
	maxLinked = 64 << 20
)

// names are those that an archive has so far. It keeps hashes, so that a million of them fit in memory.
type names struct {
	seed   maphash.Seed
	known  map[uint64]int64 // the time of a directory's first entry, noTime or notDir
	parent string           // the last name that was found to be a directory
}

const (
	noTime = -1
	notDir = -2
)

func newNames() names { return names{seed: maphash.MakeSeed(), known: map[uint64]int64{}} }

// add returns the time of the first entry of the name. The kernel creates no parents (do_name), and follows
// symbolic links on its way to a name, so the directory of a name must be an earlier entry. A name may occur
// once, that of a directory several times.
func (n *names) add(name string, mode, time uint32) (uint32, error) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 && name[:i] != n.parent {
		switch first, ok := n.known[maphash.String(n.seed, name[:i])]; {
		case !ok:
			return 0, errors.New("the archive has no entry for its directory before it, and the kernel " +
				"creates none")
		case first == notDir:
			return 0, errors.New("it is below an earlier entry that is not a directory")
		}
		n.parent = name[:i]
	}
	id, isDir := maphash.String(n.seed, name), mode&TypeMask == TypeDir
	switch first, ok := n.known[id]; {
	case ok && first == notDir:
		return 0, errors.New("duplicate entry: an earlier one has this name")
	case ok && !isDir:
		return 0, errors.New("an earlier entry of this name is a directory")
	case ok && first != noTime:
		return uint32(first), nil
	case isDir:
		n.known[id] = int64(time)
	default:
		n.known[id] = notDir
	}
	return time, nil
}

// unpacked follows what the kernel makes of the entries of one archive after the other.
type unpacked struct {
	names
	links  map[linkKey]*Header // the first entry of each file with several names, in the current archive
	linked int                 // bytes of their names
}

// linkKey is what all names of a file have in common (find_link).
type linkKey struct {
	device [2]uint32
	inode  uint32
	kind   uint32
}

// newUnpacked returns the tree that every kernel starts with (usr/default_cpio_list): /dev, /dev/console and
// /root.
func newUnpacked() *unpacked {
	u := &unpacked{names: newNames(), links: map[linkKey]*Header{}}
	for _, dir := range []string{"dev", "root"} {
		u.known[maphash.String(u.seed, dir)] = noTime
	}
	return u
}

// endArchive forgets the inodes (do_name).
func (u *unpacked) endArchive() { clear(u.links) }

// entry returns an error if the kernel makes something else of an entry than its header says. It sets what
// follows from earlier entries.
func (u *unpacked) entry(h *Header) error {
	name, err := plainName(h)
	if err != nil {
		return err
	}
	if err := checkFields(h); err != nil {
		return err
	}
	kind := h.Mode & TypeMask
	if name == "" {
		if kind != TypeDir {
			return fmt.Errorf("mode %o, expected a directory", h.Mode)
		}
		return nil
	}
	// mknod does not replace a device of the same type.
	if name == "dev/console" && kind == TypeChar && (h.Major != 5 || h.Minor != 1) {
		return fmt.Errorf("device %d:%d, but the kernel has made it as 5:1", h.Major, h.Minor)
	}
	first, err := u.add(name, h.Mode, h.ModTime)
	if err != nil {
		return err
	}
	if len(u.known) > maxNames {
		return fmt.Errorf("more than %d names: too many to follow", maxNames)
	}
	if kind == TypeDir {
		h.ModTime = first // dir_utime sets times from the last entry to the first
		return nil
	}
	if h.Links < 2 || kind == TypeSymlink { // maybe_link
		return nil
	}
	key := linkKey{h.Device, h.Inode, kind}
	old := u.links[key]
	if old == nil {
		if u.linked += len(name); u.linked > maxLinked {
			return fmt.Errorf("the names of hard links have more than %d bytes: too many to follow",
				maxLinked)
		}
		c := *h
		c.Name = name
		u.links[key] = &c
		return nil
	}
	h.LinkTo = old.Name
	switch {
	case kind != TypeFile:
		return fmt.Errorf("a second name of %q, which is no file: the kernel ignores its other fields",
			old.Name)
	case old.Mode != h.Mode || old.UID != h.UID || old.GID != h.GID || old.ModTime != h.ModTime:
		return fmt.Errorf("a second name of %q with another mode, owner or time: a file has only one",
			old.Name)
	case old.Size > 0 && h.Size > 0: // do_name truncates the file, and do_copy writes the bytes of this name
		return fmt.Errorf("a second name of %q with bytes of its own: they would replace those of the first",
			old.Name)
	}
	old.Size = max(old.Size, h.Size)
	return nil
}

// plainName returns the path that an entry is unpacked to, relative to the root, which is "". `find . | cpio`
// writes "./" before names, other programs "/", and some "/" after the name of a directory.
func plainName(h *Header) (string, error) {
	name, ok := strings.CutPrefix(h.Name, "./")
	if !ok {
		name = strings.TrimPrefix(name, "/")
	}
	if name == "." || name == "" && h.Name != "" {
		return "", nil
	}
	if h.Mode&TypeMask == TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	return name, CheckName(name)
}
