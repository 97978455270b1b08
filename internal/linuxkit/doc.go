// Package linuxkit is the part of LinuxKit that packing enclaves takes: a YAML file that names images and files ([Parse]), the tree
// they make ([Build]), and that tree as a ramdisk ([WriteRamdisk]).
//
// It is what nitro-cli calls twice for every enclave, once for the ramdisk with init and once for the application's.
// Everything that needs containerd inside the guest is refused by name. Command linuxkit is this package with flags.
package linuxkit
