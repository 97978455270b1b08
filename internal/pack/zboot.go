package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// maxKernel is larger than any kernel, in bytes uncompressed.
const maxKernel = 256 << 20

// unwrap returns the Image in an EFI zboot kernel, as distributions ship them for aarch64, with the
// text_offset that Nitro's loader needs; or r itself, if that is no such kernel. Only EFI firmware starts the
// wrapper. Its header has "zimg" at byte 4, offset and size of the payload from byte 8 on, and the name of
// the compression at byte 24 (drivers/firmware/efi/libstub/zboot-header.S of the kernel source).
func unwrap(r *io.SectionReader) (*io.SectionReader, error) {
	head := make([]byte, 32)
	if _, err := r.ReadAt(head, 0); err != nil || string(head[:2]) != "MZ" || string(head[4:8]) != "zimg" {
		return r, nil
	}
	at, size := int64(binary.LittleEndian.Uint32(head[8:])), int64(binary.LittleEndian.Uint32(head[12:]))
	if at+size > r.Size() {
		return nil,
			fmt.Errorf(
				"the EFI zboot kernel is truncated: its payload ends at byte %d, the file has %d bytes",
				at+size, r.Size())
	}
	name := strings.TrimRight(string(head[24:]), "\x00")
	in, err := compression.Open(io.NewSectionReader(r, at, size), size)
	if err == nil && in == nil {
		err = errors.New("expected gzip or zstd")
	}
	var image []byte
	if err == nil {
		image, err = io.ReadAll(io.LimitReader(in, maxKernel))
	}
	if err != nil {
		return nil, fmt.Errorf("the payload of the EFI zboot kernel (%.8q): %w", name, err)
	}
	if err := kernel.SetTextOffset(imageBytes(image)); err != nil {
		return nil, fmt.Errorf("the payload of the EFI zboot kernel: %w", err)
	}
	return io.NewSectionReader(bytes.NewReader(image), 0, int64(len(image))), nil
}

// imageBytes are the bytes of an Image, whose header can be written.
type imageBytes []byte

func (b imageBytes) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(b).ReadAt(p, at) }

func (b imageBytes) WriteAt(p []byte, at int64) (int, error) { return copy(b[at:], p), nil }
