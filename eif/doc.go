// Package eif reads, writes, measures, signs and verifies Enclave Image Files, the format in which AWS Nitro
// Enclaves are started.
//
// An Enclave Image File is a header of 548 bytes and up to 32 sections: a kernel, its command line, one or
// more ramdisks, metadata and a signature, each behind a section header of 12 bytes. All numbers are
// big-endian. The specification is the README of the repository aws/aws-nitro-enclaves-image-format; this
// package writes version 4 and reads versions 2 to 4.
//
// Only small sections are held in memory: ramdisks of any size stream through [Writer] and
// [File.Measure] in one pass, which computes the platform configuration registers (PCRs), the checksum and a
// digest of each section on the way.
//
//   - [Open] reads the structure of a file and rejects what a Nitro hypervisor would reject; [Inspect] lists
//     everything that is wrong.
//   - [File.Measure] computes the PCRs that an enclave started from the file reports about itself.
//   - [Writer] writes a file, section by section.
//   - [Sign] makes the content of a signature section and [Signature.Verify] checks one.
//
// The package knows nothing of container images, of what is inside the ramdisks or of how an enclave is
// started. It depends on no operating system.
package eif
