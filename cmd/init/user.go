//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// An account is the user of the application.
type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

// lookUp finds USER or USER:GROUP, names or numbers, in the image's files, as Docker does. field is its name
// in the description, for errors.
func lookUp(field, spec string) (account, error) {
	var files [2]string
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		text, err := readFile(name, 1<<20)
		if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
			return account{}, fail("read", name, err)
		}
		files[i] = text
	}
	a, err := resolveUser(spec, files[0], files[1])
	if err != nil {
		return account{}, fail("find "+field, strconv.Quote(spec), err)
	}
	return a, nil
}

// resolveUser does the same in the text of /etc/passwd and /etc/group.
func resolveUser(spec, passwd, group string) (account, error) {
	a, err := contract.FindAccount(spec, passwd, group)
	return account{uid: a.UID, gid: a.GID, groups: a.Groups, home: a.Home}, err
}
