// Package initramfs writes and reads newc archives, the form in which the Linux kernel takes the file tree it
// starts from (Documentation/driver-api/early-userspace/buffer-format.rst, init/initramfs.c).
//
// The writer refuses what the kernel would drop without a word: a name longer than PATH_MAX, a file of 4 GiB or
// more, an entry whose directory has not come before. It writes nothing that depends on the machine: inode
// numbers count from 1 in the order of the entries, device numbers are zero.
//
// It knows nothing of containers or compression: an image's tree comes from package image, and a compressed
// archive is what a gzip writer makes of this one.
package initramfs
