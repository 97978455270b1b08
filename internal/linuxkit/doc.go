// Package linuxkit is the part of LinuxKit that nitro-cli uses: a YAML file that names images and files
// ([Parse]), the tree that they make ([Build]), and the files that hold it ([Write]).
//
// nitro-cli calls it twice for every enclave: for the ramdisk with init, and for the application's. Package
// image reads container images and writes ramdisks; this package adds what LinuxKit adds to an image's tree.
// Keys of LinuxKit's YAML that need containerd or a kernel in an image are rejected by name. Command linuxkit
// is this package with flags.
package linuxkit
