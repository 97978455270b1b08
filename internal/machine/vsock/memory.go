package vsock

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A region is a piece of the enclave's memory that QEMU shares: where the enclave sees it (guest), where QEMU sees
// it (user, the addresses that ring messages use), and the bytes.
type region struct {
	guest, user uint64
	data        []byte
	mapping     []byte // what munmap wants: data and the offset before it; nil in tests
}

// memory is the enclave's memory. The bytes change under our hands: the enclave runs while we read.
type memory []region

// maxRegions is what a front end may send without VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS.
const maxRegions = 8

// mapRegion maps size bytes at offset of the shared memory f. It refuses a file that is shorter, because touching pages
// behind its end would kill the process.
func mapRegion(f *os.File, guest, user, size, offset uint64) (region, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return region{}, fmt.Errorf("memory region at %#x: %w", guest, err)
	}
	end := offset + size
	switch {
	case size == 0, end < offset, guest+size < guest, user+size < user, end > 1<<46:
		return region{}, fmt.Errorf("memory region at %#x: impossible size %#x at offset %#x", guest, size, offset)
	case end > uint64(st.Size):
		return region{}, fmt.Errorf("memory region at %#x: ends at %#x of a file of %#x bytes", guest, end, st.Size)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("memory region at %#x: mmap of %d bytes: %w", guest, end, err)
	}
	return region{guest: guest, user: user, data: m[offset:], mapping: m}, nil
}

// unmap gives all regions back. Nothing may hold a slice of them any more.
func (m memory) unmap() {
	for _, r := range m {
		if r.mapping != nil {
			unix.Munmap(r.mapping)
		}
	}
}

// atUser returns the n bytes that QEMU has at addr, or nil where they are not in one region.
func (m memory) atUser(addr, n uint64) []byte {
	for _, r := range m {
		if off := addr - r.user; addr >= r.user && off < uint64(len(r.data)) && n <= uint64(len(r.data))-off {
			return r.data[off : off+n : off+n]
		}
	}
	return nil
}

// atGuest returns at most n bytes that the enclave has at addr: fewer where the region ends, nil where there is no memory.
func (m memory) atGuest(addr, n uint64) []byte {
	for _, r := range m {
		if off := addr - r.guest; addr >= r.guest && off < uint64(len(r.data)) {
			n = min(n, uint64(len(r.data))-off)
			return r.data[off : off+n : off+n]
		}
	}
	return nil
}
