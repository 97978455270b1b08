// Package pack makes an Enclave Image File from a container image, or from a directory or archive, and the
// blobs of `neb build`.
//
// A file that [Build] makes has two ramdisks, as nitro-cli's have: the first holds PID 1 and the NSM driver,
// the second the application, so that PCR1 measures kernel, command line and bootstrap, and PCR2 the
// application. The same image, blobs and options give the same bytes on any machine: the file does not depend
// on the clock, the host or any path.
//
// Package eif has the format, package image reads images, package contract has what init reads, and package
// inspect looks into finished files.
package pack
