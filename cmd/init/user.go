//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// lookUp finds USER or USER:GROUP, names or numbers, in the image's files, as Docker does. field is its name
// in the description, for errors.
func lookUp(field, spec string) (contract.Account, error) {
	var files [2]string
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		text, err := readFile(name, 1<<20)
		if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
			return contract.Account{}, fail("read", name, err)
		}
		files[i] = text
	}
	a, err := contract.FindAccount(spec, files[0], files[1])
	if err != nil {
		return contract.Account{}, fail("find "+field, strconv.Quote(spec), err)
	}
	return a, nil
}
