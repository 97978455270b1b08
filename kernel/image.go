package kernel

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The header of an aarch64 Image, little-endian (Documentation/arch/arm64/booting.rst in the kernel source).
const (
	textOffsetAt = 8  // u64: where the image wants to stand, from a 2 MiB boundary
	magicAt      = 56 // u32
	imageMagic   = "ARM\x64"
	imageHeader  = 64       // bytes
	TextOffset   = 0x200000 // what an enclave's Image must name: 2 MiB
)

// SetTextOffset writes [TextOffset] into the header of an aarch64 Image.
//
// Linux has left the field 0 since 5.10, which says "anywhere"; the Nitro loader places the kernel at the
// very address that the header names, and nothing runs at 0.
func SetTextOffset(image interface {
	io.ReaderAt
	io.WriterAt
}) error {
	var header [imageHeader]byte
	if _, err := image.ReadAt(header[:], 0); err != nil {
		return fmt.Errorf("aarch64 Image: read the header of %d bytes: %w", imageHeader, err)
	}
	if got := string(header[magicAt : magicAt+len(imageMagic)]); got != imageMagic {
		return fmt.Errorf("aarch64 Image: magic at byte %d is %q, expected %q: not an uncompressed arm64 "+
			"kernel",
			magicAt, got, imageMagic)
	}
	var field [8]byte
	binary.LittleEndian.PutUint64(field[:], TextOffset)
	if _, err := image.WriteAt(field[:], textOffsetAt); err != nil {
		return fmt.Errorf("aarch64 Image: write text_offset: %w", err)
	}
	return nil
}
