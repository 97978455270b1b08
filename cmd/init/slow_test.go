//go:build slow

package main

// slow also runs the scenes that repeat on a larger scale what others show.
const slow = true
