//go:build slow

package vm

// slow allows tests to compile kernels.
const slow = true
