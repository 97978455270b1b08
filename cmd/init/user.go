//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// An account is the user of the application.
type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

const maxID = 1<<32 - 2 // of the kernel, whose last number means none; contract.MaxID is Docker's

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

// resolveUser does the same in the text of /etc/passwd and /etc/group, by the rule of GetExecUser in
// moby/sys/user: what is written as a number is a number, and never a name; the first line that fits counts;
// a number need not be in the files, a name must; what is empty is 0, with the group of its line. The groups
// that have the user as a member are his, unless the group is given.
func resolveUser(spec, passwd, group string) (account, error) {
	user, grp, _ := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	uid, numeric, err := contract.ID(user)
	if err != nil {
		return account{}, err
	}
	a := account{home: "/", uid: uid}
	name, found := "", false
	for line := range strings.Lines(passwd) { // name:password:uid:gid:comment:home:shell
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		uid, okUID := id(f[2])
		gid, okGID := id(f[3])
		// Docker reads invalid numbers as 0, which would make the user root.
		if !okUID || !okGID || numeric && uid != a.uid || !numeric && f[0] != user {
			continue
		}
		name, a.uid, a.gid, found = f[0], uid, gid, true
		if len(f) > 5 && f[5] != "" {
			a.home = f[5]
		}
		break
	}
	if !found && !numeric {
		return account{}, errors.New("no such user in the image's /etc/passwd; a number needs no entry")
	}
	gid, numeric, err := contract.ID(grp)
	if err != nil {
		return account{}, err
	}
	if numeric {
		a.gid = gid
		return a, nil
	}
	found = false
	for line := range strings.Lines(group) { // name:password:gid:member,member
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		gid, ok := id(f[2])
		switch {
		case !ok:
		case grp == "":
			if len(f) > 3 && name != "" && member(f[3], name) {
				a.groups = append(a.groups, uint32(gid))
			}
		case f[0] == grp && !found:
			a.gid, found = gid, true
		}
	}
	if grp != "" && !found {
		return account{}, errors.New("no such group in the image's /etc/group; a number needs no entry")
	}
	return a, nil
}

func member(list, name string) bool {
	for m := range strings.SplitSeq(list, ",") {
		if m == name {
			return true
		}
	}
	return false
}

// id parses the number of a user or group in a file.
func id(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return int(n), err == nil && n <= maxID
}
