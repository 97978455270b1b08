//go:build !slow

package unpack_test

// archives is how many ramdisks the kernel's code and neb read in a quick run.
const archives = 500
