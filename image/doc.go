// Package image opens a container image, wherever it is, and merges its layers into one file tree.
//
// [Open] takes a reference (a registry's, docker-daemon:, docker-archive:, oci:, oci-archive:) and returns an
// [Image]: its configuration, and layers that have not been read yet. [Tree.AddImage] decompresses every
// layer once, in parallel, verifies its digest, and merges it as the OCI image specification requires. A
// [Tree] holds names and attributes in memory (about 130 bytes for each file) and leaves the files' bytes on
// disk, so that an image of any size needs the same memory. [Tree.WriteRamdisk] and [Tree.WriteTar] write it
// as an archive.
//
// Nothing is unpacked: a name in a layer is a key of the tree, not a path of this machine, so a hostile name
// reaches nothing.
package image
