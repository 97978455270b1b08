// Package initramfs writes and reads newc archives, the form in which the Linux kernel takes the file tree it
// starts from (Documentation/driver-api/early-userspace/buffer-format.rst, init/initramfs.c). Comments name
// functions of the kernel; docs/parsers.md has their lines.
//
// The writer rejects what the kernel would drop silently: a name longer than PATH_MAX, a file of 4 GiB or
// more, an entry before its directory. Its output does not depend on the machine: inode numbers count from 1
// in the order of the entries, and device numbers are zero.
//
// It knows nothing of containers or compression: package image makes the tree of an image, and a gzip writer
// compresses an archive.
package initramfs
