package preflight

import "github.com/nitro-enclaves-bootstrap/neb/initramfs"

// Usage is what the kernel needs to unpack ramdisks.
//
// It unpacks them into a tmpfs, which may take half of the memory: in pages, and in inodes one for two pages
// (shmem_default_max_blocks and shmem_default_max_inodes of mm/shmem.c). Until it is done, the ramdisks
// themselves are in memory too, and do not count as memory for that half.
type Usage struct {
	Ramdisks int64 // bytes of all ramdisks, as the EIF has them
	Pages    int64 // of 4096 bytes, for the content of files
	Inodes   int64 // names: the kernel counts hard links as well
}

// Entry adds a name with its content in bytes, which is 0 for a further name of the same file.
func (u *Usage) Entry(mode uint32, size int64) {
	u.Inodes++
	switch mode & initramfs.TypeMask {
	case initramfs.TypeFile:
		u.Pages += (size + page - 1) / page
	case initramfs.TypeSymlink:
		if size > shortLink {
			u.Pages++
		}
	}
}

const (
	mib       = 1 << 20
	page      = 4096
	shortLink = 127 // bytes of a target that tmpfs keeps in the inode (SHORT_SYMLINK_LEN)

	// kernelMemory is what firmware and the kernel itself take before they count the memory, with a reserve;
	// pageMemory is the size of struct page. inodeMemory is an inode and its name in memory.
	kernelMemory = 28 * mib
	pageMemory   = 64
	inodeMemory  = 1216

	// application is what is left for init and the application.
	application = 32 * mib

	// leastMemory is what neb run gives at least.
	leastMemory = 512 * mib
)

// LeastMemory returns the memory that an enclave needs to start, in bytes and whole MiB: at least four times
// the size of the EIF, below which nitro-cli refuses it, and what the kernel needs to unpack the ramdisks.
// The application's own needs come on top.
func (u Usage) LeastMemory(eif int64) int64 {
	half := 2 * page * max(u.Pages, u.Inodes)                // the tmpfs is large enough
	all := page*u.Pages + inodeMemory*u.Inodes + application // and there is memory for it
	needed := (max(half, all) + u.Ramdisks + kernelMemory) / (page - pageMemory) * page
	return (max(needed, 4*eif) + mib - 1) / mib * mib
}

// DefaultMemory returns the memory that neb run gives an enclave that needs at least so much, in bytes.
func DefaultMemory(least int64) int64 { return max(least, leastMemory) }
