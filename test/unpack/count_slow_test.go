//go:build slow

package unpack_test

const archives = 10_000
