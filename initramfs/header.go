package initramfs

import (
	"errors"
	"fmt"
	"strings"
)

// File types, as the upper four bits of [Header.Mode] hold them (stat(2), S_IFMT).
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeFile    = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFifo    = 0o010000
)

// Bounds of what an archive can hold and the kernel can unpack.
const (
	MaxSize = 1<<32 - 1 // bytes in one file: the size has eight hexadecimal digits
	MaxPath = 4095      // bytes in a name, and in what a symbolic link points to (PATH_MAX without its NUL)
	MaxName = 255       // bytes between two slashes (NAME_MAX)
)

const (
	magic      = "070701"
	headerSize = 110
	trailer    = "TRAILER!!!"
)

// Header describes one entry of an archive.
type Header struct {
	// Name is the path from the root of the archive, without a leading or trailing slash.
	Name string
	// Mode holds the file type, the permissions and the setuid, setgid and sticky bits as stat(2) has them.
	Mode uint32
	// UID and GID own the file. The kernel takes 0xffffffff for "no owner", so that is an error.
	UID, GID uint32
	// ModTime is in seconds since 1970. An archive cannot hold a time before 1970 or after 2106.
	ModTime uint32
	// Size is the number of bytes of the body. Only a file and a symbolic link (its target) have one.
	Size int64
	// Major and Minor are the numbers of a device node.
	Major, Minor uint32
	// Inode joins hard links: all entries with the same number, and from the same Device, are one file. A
	// writer given 0 takes the next unused one; a caller that links gives numbers of its own to all entries,
	// or takes them from [Writer.NextInode].
	Inode uint32
	// Device holds the numbers of the file system that the file was read from, major and minor. Writers leave
	// it 0: the inode says enough.
	Device [2]uint32
	// Links is the number of names that the file has in this archive; 0 means 1. The kernel looks for earlier
	// names of the same inode only when it is 2 or more. Exactly one of the names brings the bytes, the
	// others have Size 0.
	Links uint32
	// LinkTo is the first name of a file with several. [Reader] sets it on the others; [Writer] ignores it.
	LinkTo string
}

// ErrTooLarge is the error for a file of more than [MaxSize] bytes.
var ErrTooLarge = errors.New("a newc archive cannot hold a file of 4 GiB or more")

// Check returns an error if an archive cannot hold h. The kernel would skip such an entry silently, or make
// something else of it.
func (h *Header) Check() error {
	if err := CheckName(h.Name); err != nil {
		return err
	}
	if err := checkFields(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// checkFields checks everything but the name. do_header skips the body of what has none, do_name removes what
// has the name of an entry of unknown type; umode_t has 16 bits, dev_t 12 and 20; an owner of -1 is none.
func checkFields(h *Header) error {
	switch h.Mode & TypeMask {
	case TypeFile:
		if h.Size > MaxSize {
			return fmt.Errorf("%w (it has %d bytes)", ErrTooLarge, h.Size)
		}
	case TypeSymlink:
		if h.Size < 1 || h.Size > MaxPath {
			return fmt.Errorf("invalid symbolic link of %d bytes: expected 1 to %d", h.Size, MaxPath)
		}
	case TypeChar, TypeBlock, TypeDir, TypeFifo, TypeSocket:
		if h.Size != 0 {
			return fmt.Errorf("invalid size %d: mode %o has no content", h.Size, h.Mode)
		}
	default:
		return fmt.Errorf("invalid mode %o: unknown file type", h.Mode)
	}
	switch kind := h.Mode & TypeMask; {
	case h.Size < 0:
		return fmt.Errorf("invalid size %d", h.Size)
	case h.Mode > 0o177777:
		return fmt.Errorf("invalid mode %o: bits above the file type", h.Mode)
	case h.UID == 1<<32-1 || h.GID == 1<<32-1:
		return fmt.Errorf("invalid owner %d:%d: out of range", h.UID, h.GID)
	case (kind == TypeChar || kind == TypeBlock) && (h.Major >= 1<<12 || h.Minor >= 1<<20):
		return fmt.Errorf("invalid device %d:%d: expected at most %d:%d", h.Major, h.Minor, 1<<12-1, 1<<20-1)
	}
	return nil
}

// CheckName returns an error if an archive cannot hold a path.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("name is empty")
	case len(name) > MaxPath:
		return fmt.Errorf("%.60q…: name has %d bytes, expected at most %d",
			name, len(name), MaxPath)
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("%q: name contains a NUL", name)
	case name == trailer:
		return fmt.Errorf("%q: this name marks the end of an archive", name)
	}
	for rest := name; ; {
		part, tail, more := strings.Cut(rest, "/")
		switch {
		case part == "" || part == "." || part == "..":
			return fmt.Errorf("%q: name has an empty, %q or %q part", name, ".", "..")
		case len(part) > MaxName:
			return fmt.Errorf("%.60q…: %.60q… has %d bytes between slashes, expected at most %d",
				name, part, len(part), MaxName)
		}
		if !more {
			return nil
		}
		rest = tail
	}
}
