// Package pack makes an Enclave Image File from a container image and the blobs that `neb build` makes, and looks into
// such files: what they hold, whether they are in order, and where two of them differ.
//
// A file that [Build] makes has two ramdisks, as nitro-cli's have: the first holds PID 1 and the NSM driver, the second
// the application, so that PCR1 measures kernel, command line and bootstrap, and PCR2 the application. The same image,
// blobs and options are the same bytes on any machine: nothing of the clock, the host or the path goes in.
//
// The format itself is in package eif, images are in package image, what init reads is in package app.
package pack
