package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
)

// erofsImage reads names, attributes and the targets of links from an erofs image (Linux, fs/erofs/erofs_fs.h
// and Documentation/filesystems/erofs.rst): unpacking it loses owners and attributes that the user may not
// set. It does not read the content of files, which is compressed.
type erofsImage struct {
	r           io.ReaderAt
	size        int64 // of the image, in bytes
	block       int64 // bytes of a block
	meta, xattr int64 // where inodes and shared attributes are, in bytes
	root        uint64
	time        int64 // of compact inodes
	most        int64 // names of files and attributes that walk reads
	names, left int64 // that it may still read, and bytes: inodes can share both
}

// erofsInode is an inode, with where its data are.
type erofsInode struct {
	node
	layout         uint16
	start, metaEnd int64 // where the data begin, and where the inode ends and inline data begin
}

const (
	erofsMagic    = 0xe0f5e1e2
	erofsSuper    = 1024 // where the superblock is
	erofsKnown    = 0x7f // of feature_incompat: none of them is about directories
	erofsPlain    = 0    // layouts of data
	erofsInline   = 2
	erofsMaxLink  = 4095
	erofsMaxDir   = 1 << 30
	erofsMaxNames = 1 << 22
)

// erofsPrefixes are what names of extended attributes begin with, by their index.
var erofsPrefixes = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

func openErofs(r io.ReaderAt, size int64) (*erofsImage, error) {
	var b [128]byte
	if _, err := r.ReadAt(b[:], erofsSuper); err != nil {
		return nil, fmt.Errorf("erofs image of %d bytes: superblock: %w", size, err)
	}
	le := binary.LittleEndian
	if magic := le.Uint32(b[0:]); magic != erofsMagic {
		return nil, fmt.Errorf("erofs image: expected the magic %#x, found %#x", erofsMagic, magic)
	}
	if unknown := le.Uint32(b[80:]) &^ erofsKnown; unknown != 0 {
		return nil, fmt.Errorf("erofs image: unsupported features %#x", unknown)
	}
	bits := b[12]
	if bits < 9 || bits > 16 {
		return nil, fmt.Errorf("erofs image: block size 2^%d bytes, expected 2^9 to 2^16", bits)
	}
	block := int64(1) << bits
	return &erofsImage{
		r: r, size: size, block: block, root: uint64(le.Uint16(b[14:])), time: int64(le.Uint64(b[24:])),
		meta: int64(le.Uint32(b[40:])) * block, xattr: int64(le.Uint32(b[44:])) * block, most: erofsMaxNames,
	}, nil
}

func (i *erofsImage) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > i.size || n > i.size-at {
		return nil, fmt.Errorf("%d bytes at byte %d are outside of the image of %d bytes", n, at, i.size)
	}
	if i.left -= n; i.left < 0 {
		return nil, fmt.Errorf("directories, inodes and attributes of more than %d bytes: too many to read",
			256*i.most)
	}
	b := make([]byte, n)
	_, err := i.r.ReadAt(b, at)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (i *erofsImage) take(names int) error {
	if i.names -= int64(names); i.names < 0 {
		return fmt.Errorf("more than %d names of files and attributes: too many to read", i.most)
	}
	return nil
}

// inode reads all of a node but its path and its target.
func (i *erofsImage) inode(nid uint64) (*erofsInode, error) {
	if nid > uint64(i.size)/32 {
		return nil, fmt.Errorf("inode %d is outside of the image", nid)
	}
	at := i.meta + int64(nid)*32
	b, err := i.read(at, 32)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b)
	e := &erofsInode{layout: format >> 1 & 7}
	e.mode = uint32(le.Uint16(b[4:]))
	device := le.Uint32(b[16:])
	end := at + 32
	if format&1 == 0 {
		e.links, e.size, e.time = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:])), i.time
		e.uid, e.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
	} else {
		more, err := i.read(at+32, 32)
		if err != nil {
			return nil, err
		}
		end += 32
		e.size, e.uid, e.gid = int64(le.Uint64(b[8:])), le.Uint32(b[24:]), le.Uint32(b[28:])
		e.time, e.links = int64(le.Uint64(more)), le.Uint32(more[12:])
	}
	e.start = int64(device) * i.block
	if n := int64(le.Uint16(b[2:])); n > 0 {
		if e.xattrs, err = i.attributes(end, 12+4*(n-1)); err != nil {
			return nil, fmt.Errorf("extended attributes: %w", err)
		}
		end += 12 + 4*(n-1)
	}
	e.metaEnd = end
	switch e.mode & initramfs.TypeMask {
	case initramfs.TypeDir:
		e.links = 0
	case initramfs.TypeChar, initramfs.TypeBlock: // include/linux/kdev_t.h, new_encode_dev
		e.major, e.minor, e.size = (device&0xfff00)>>8, device&0xff|(device>>12)&0xfff00, 0
	}
	return e, nil
}

// attributes reads the extended attributes of an inode: a header, the places of those that several inodes
// share, and its own.
func (i *erofsImage) attributes(at, n int64) (string, error) {
	b, err := i.read(at, n)
	if err != nil {
		return "", err
	}
	shared := int(b[4])
	if 12+4*shared > len(b) {
		return "", fmt.Errorf("%d shared attributes in %d bytes", shared, len(b))
	}
	if err := i.take(shared); err != nil {
		return "", err
	}
	var all []string
	for k := range shared {
		place := i.xattr + 4*int64(binary.LittleEndian.Uint32(b[12+4*k:]))
		head, err := i.read(place, 4)
		if err != nil {
			return "", err
		}
		own, err := i.read(place, 4+int64(head[0])+int64(binary.LittleEndian.Uint16(head[2:])))
		if err != nil {
			return "", err
		}
		text, _ := attribute(own)
		all = append(all, text)
	}
	for rest := b[12+4*shared:]; len(rest) >= 4; {
		text, used := attribute(rest)
		if used == 0 {
			return "", errors.New("truncated attribute")
		}
		if err := i.take(1); err != nil {
			return "", err
		}
		all = append(all, text)
		rest = rest[min(len(rest), (used+3)&^3):]
	}
	return strings.Join(all, " "), nil
}

// attribute returns one extended attribute and its size in bytes, which is 0 if it is truncated.
func attribute(b []byte) (string, int) {
	name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
	if 4+name+value > len(b) {
		return "", 0
	}
	prefix, ok := erofsPrefixes[b[1]]
	if !ok {
		prefix = fmt.Sprintf("%d:", b[1])
	}
	return fmt.Sprintf("%s=%q", printable.Name(prefix+string(b[4:4+name])),
		b[4+name:4+name+value]), 4 + name + value
}

// data reads the content of a directory or a symbolic link, of at most the given number of bytes.
func (i *erofsImage) data(e *erofsInode, most int64) ([]byte, error) {
	if e.size < 0 || e.size > most {
		return nil, fmt.Errorf("%d bytes, expected at most %d", e.size, most)
	}
	switch e.layout {
	case erofsPlain:
		return i.read(e.start, e.size)
	case erofsInline: // whole blocks, then the rest after the inode
		tail := e.size % i.block
		head := []byte{}
		if e.size > tail {
			var err error
			if head, err = i.read(e.start, e.size-tail); err != nil {
				return nil, err
			}
		}
		rest, err := i.read(e.metaEnd, tail)
		return append(head, rest...), err
	}
	return nil, fmt.Errorf("data layout %d is not supported", e.layout)
}

// walk calls use for each node, directories before what is in them.
func (i *erofsImage) walk(use func(*node) error) error {
	i.names, i.left = i.most, 256*i.most
	seen := map[uint64]bool{} // directories: a loop would not end
	var list func(nid uint64, path string) error
	list = func(nid uint64, path string) error {
		if seen[nid] {
			return fmt.Errorf("erofs image: the directory %q has several names", path)
		}
		seen[nid] = true
		dir, err := i.inode(nid)
		if err == nil && !dir.is(initramfs.TypeDir) {
			err = errors.New("not a directory")
		}
		var content []byte
		if err == nil {
			content, err = i.data(dir, erofsMaxDir)
		}
		if err != nil {
			return fmt.Errorf("erofs image: %q: %w", path, err)
		}
		for len(content) > 0 {
			block := content[:min(int64(len(content)), i.block)]
			content = content[len(block):]
			names, err := dirents(block)
			if err != nil {
				return fmt.Errorf("erofs image: directory %q: %w", path, err)
			}
			if err := i.take(len(names)); err != nil {
				return fmt.Errorf("erofs image: %w", err)
			}
			for _, d := range names {
				if d.name == "." || d.name == ".." {
					continue
				}
				e, err := i.inode(d.nid)
				if err == nil && e.is(initramfs.TypeSymlink) {
					var target []byte
					target, err = i.data(e, erofsMaxLink)
					e.target, e.size = string(target), 0
				}
				if err != nil {
					return fmt.Errorf("erofs image: %q: %w", path+d.name, err)
				}
				if e.path = path + d.name; len(e.path) > initramfs.MaxPath {
					return fmt.Errorf("erofs image: %.60q…: the path has %d bytes, expected at most %d",
						e.path, len(e.path), initramfs.MaxPath)
				}
				isDir := e.is(initramfs.TypeDir)
				if isDir {
					e.size = 0
				}
				if err := use(&e.node); err != nil {
					return err
				}
				if isDir {
					if err := list(d.nid, e.path+"/"); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	return list(i.root, "")
}

type dirent struct {
	nid  uint64
	name string
}

// dirents are the names in a block of a directory: records of 12 bytes, and after the last the names that
// they point to.
func dirents(block []byte) ([]dirent, error) {
	const record = 12
	if len(block) < record {
		return nil, fmt.Errorf("a block of %d bytes", len(block))
	}
	le := binary.LittleEndian
	first := int(le.Uint16(block[8:]))
	if first < record || first%record != 0 || first > len(block) {
		return nil, fmt.Errorf("the names begin at byte %d of a block", first)
	}
	all := make([]dirent, first/record)
	for k := range all {
		from, to := int(le.Uint16(block[record*k+8:])), len(block)
		if k+1 < len(all) {
			to = int(le.Uint16(block[record*(k+1)+8:]))
		}
		if from > to || to > len(block) {
			return nil, fmt.Errorf("a name from byte %d to %d of a block", from, to)
		}
		name, _, _ := bytes.Cut(block[from:to], []byte{0})
		if len(name) == 0 || bytes.IndexByte(name, '/') >= 0 {
			return nil, fmt.Errorf("invalid name %q", name)
		}
		all[k] = dirent{le.Uint64(block[record*k:]), string(name)}
	}
	return all, nil
}
