package debian

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

const rpmMagic = "\xed\xab\xee\xdb"

// rpmFiles returns the regular files of an RPM package: a lead, two headers, and a compressed newc archive
// (the package format of rpm, docs/manual/format_v4.md).
func rpmFiles(r *bufio.Reader) (nextFile, error) {
	const lead = 96
	if _, err := r.Discard(lead); err != nil {
		return nil, fmt.Errorf("RPM package: lead: %w", err)
	}
	for _, header := range []string{"signature", "header"} {
		// Magic and version, 4 bytes reserved, then as 32-bit big-endian numbers the entries of an index, 16
		// bytes each, and the bytes of their data.
		var intro [16]byte
		if _, err := io.ReadFull(r, intro[:]); err != nil {
			return nil, fmt.Errorf("RPM package: %s: %w", header, err)
		}
		if magic := intro[:4]; string(magic) != "\x8e\xad\xe8\x01" {
			return nil, fmt.Errorf("RPM package: %s: expected magic 8eade801, found %x", header, magic)
		}
		size := 16*int64(binary.BigEndian.Uint32(intro[8:])) + int64(binary.BigEndian.Uint32(intro[12:]))
		if header == "signature" {
			size += -size & 7
		}
		if _, err := io.CopyN(io.Discard, r, size); err != nil {
			return nil, fmt.Errorf("RPM package: %s: truncated: %w", header, err)
		}
	}
	head, _ := r.Peek(6)
	for _, c := range []struct{ magic, suffix string }{
		{"\xfd7zXZ\x00", ".xz"}, {"\x28\xb5\x2f\xfd", ".zst"}, {"\x1f\x8b", ".gz"}, {"07070", ""},
	} {
		if !strings.HasPrefix(string(head), c.magic) {
			continue
		}
		data, err := decompress(c.suffix, r)
		if err != nil {
			return nil, err
		}
		archive := initramfs.NewReader(io.LimitReader(data, mostPackage))
		return func() (string, io.Reader, error) {
			for {
				h, err := archive.Next()
				if refused := (*initramfs.RefusedError)(nil); errors.As(err, &refused) {
					// such as a file without its directory: no kernel unpacks this
					h, err = refused.Header, nil
				}
				if err != nil {
					return "", nil, err
				}
				if h.Mode&initramfs.TypeMask == initramfs.TypeFile {
					return h.Name, archive, nil
				}
			}
		}, nil
	}
	return nil, errors.New("RPM package: unknown compression of the files: expected xz, zstd or gzip")
}
