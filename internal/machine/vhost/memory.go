package vhost

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A region is a piece of the enclave's memory that QEMU shares: its address in the enclave (guest) and in
// QEMU (user, which ring messages use), and the bytes.
type region struct {
	guest, user uint64
	data        []byte
	mapping     []byte // what munmap needs: data and the offset before it; nil in tests
}

// memory is the enclave's memory. Its bytes can change at any time, because the enclave runs.
type memory []region

// maxRegions is the most that QEMU may send without VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS.
const maxRegions = 8

// mapRegion maps size bytes at offset of the shared memory f. It rejects a file that is shorter, because an
// access behind its end would kill the process.
func mapRegion(f *os.File, guest, user, size, offset uint64) (region, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return region{}, err
	}
	end := offset + size
	switch {
	case size == 0, end < offset, guest+size < guest, user+size < user, end > 1<<46:
		return region{}, fmt.Errorf("invalid size %#x or offset %#x", size, offset)
	case end > uint64(st.Size):
		return region{}, fmt.Errorf("ends at %#x of a file of %#x bytes", end, st.Size)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("mmap of %d bytes: %w", end, err)
	}
	return region{guest: guest, user: user, data: m[offset:], mapping: m}, nil
}

// unmap unmaps all regions. No slice of them may be used after it.
func (m memory) unmap() {
	for _, r := range m {
		if r.mapping != nil {
			unix.Munmap(r.mapping)
		}
	}
}

// atUser returns the n bytes at QEMU's address addr, or nil if they are not inside one region.
func (m memory) atUser(addr, n uint64) []byte {
	for _, r := range m {
		if off := addr - r.user; addr >= r.user && off < uint64(len(r.data)) && n <= uint64(len(r.data))-off {
			return r.data[off : off+n : off+n]
		}
	}
	return nil
}

// atGuest returns at most n bytes at the enclave's address addr: fewer if the region ends before, nil if
// there is no memory.
func (m memory) atGuest(addr, n uint64) []byte {
	for _, r := range m {
		if off := addr - r.guest; addr >= r.guest && off < uint64(len(r.data)) {
			n = min(n, uint64(len(r.data))-off)
			return r.data[off : off+n : off+n]
		}
	}
	return nil
}
