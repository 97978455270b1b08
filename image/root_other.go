//go:build !linux

package image

import (
	"fmt"
	"io/fs"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// entryOf returns the attributes of a file that every system has.
func entryOf(_ string, info fs.FileInfo) (e *Entry, id fileID, links uint64, err error) {
	e = &Entry{Mode: uint32(info.Mode().Perm()), ModTime: info.ModTime().Unix()}
	switch info.Mode().Type() {
	case 0:
		e.Mode |= initramfs.TypeFile
	case fs.ModeDir:
		e.Mode |= initramfs.TypeDir
	case fs.ModeSymlink:
		e.Mode |= initramfs.TypeSymlink
	default:
		return nil, id, 1, fmt.Errorf("unsupported file type %v", info.Mode().Type())
	}
	return e, id, 1, nil
}
