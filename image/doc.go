// Package image opens a container image, wherever it stands, and merges its layers into one file tree.
//
// [Open] takes a reference (a registry's, docker-daemon:, docker-archive:, oci:, oci-archive:) and gives an [Image]: its
// configuration and its layers, not yet read. [Tree.AddImage] inflates every layer once, in parallel, checks its digest,
// and merges it as the OCI image specification says. A [Tree] holds names and attributes in memory (about a hundred
// bytes for each file) and leaves the files' bytes on disk, so that an image of any size needs the same memory.
//
// Nothing is ever unpacked: a name in a layer is a key of the tree and no path of the machine, so a hostile one has
// nothing to reach. The package makes no archives; the packages initramfs and linuxkit do.
package image
