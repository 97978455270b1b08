// Command blob stands in for init and linuxkit in the tests of a release: a Go program with one module in it.
package main

import "golang.org/x/sys/unix"

func main() { _ = unix.Getpid() }
