//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// account is who the application runs as.
type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

const maxID = 1<<32 - 2 // the last number is none: "leave as it is"

// lookUp finds "user", "uid", "user:group" and mixtures in the image's files, as Docker does.
func lookUp(spec string) (account, error) {
	var files [2]string
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		b, err := readFile(name, 1<<20)
		if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
			return account{}, fail("read", name, err)
		}
		files[i] = string(b)
	}
	a, err := resolveUser(spec, files[0], files[1])
	if err != nil {
		return account{}, fail("find User", strconv.Quote(spec), err)
	}
	return a, nil
}

// resolveUser does the same in the text of /etc/passwd and /etc/group. A number need not be in them, a name must. The groups
// that have the user as a member are his, unless the group is given.
func resolveUser(spec, passwd, group string) (account, error) {
	user, grp, grouped := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	a := account{home: "/"}
	number, numeric := id(user)
	name := ""
	for line := range strings.Lines(passwd) { // name:password:uid:gid:comment:home:shell
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 4 {
			continue
		}
		uid, okUID := id(f[2])
		gid, okGID := id(f[3])
		if !okUID || !okGID || f[0] != user && !(numeric && uid == number) {
			continue
		}
		name, a.uid, a.gid = f[0], uid, gid
		if len(f) > 5 && f[5] != "" {
			a.home = f[5]
		}
		break
	}
	if name == "" {
		if !numeric {
			return account{}, errors.New("the image's /etc/passwd has no such user; a number would need none")
		}
		a.uid = number
	}
	number, numeric = id(grp)
	found := false
	for line := range strings.Lines(group) { // name:password:gid:member,member
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 3 || f[0] == "" {
			continue
		}
		gid, ok := id(f[2])
		if !ok {
			continue
		}
		switch {
		case grouped && !found && (f[0] == grp || numeric && gid == number):
			a.gid, found = gid, true
		case !grouped && len(f) > 3 && name != "" && member(f[3], name):
			a.groups = append(a.groups, uint32(gid))
		}
	}
	if grouped && !found {
		if !numeric {
			return account{}, errors.New("the image's /etc/group has no such group; a number would need none")
		}
		a.gid = number
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

// id reads a user's or group's number.
func id(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return int(n), err == nil && n <= maxID
}
