package contract

import (
	"errors"
	"strconv"
	"strings"
)

// Account is a user of an image.
type Account struct {
	UID, GID int
	Groups   []uint32 // besides GID
	Home     string   // "/" if the image does not say
}

// MaxKernelID is the kernel's largest number of a user or group: the next one means none.
const MaxKernelID = 1<<32 - 2

// FindAccount finds USER or USER:GROUP, names or numbers, in the text of an image's /etc/passwd and
// /etc/group, by the rule of GetExecUser in moby/sys/user: what is written as a number is a number, and never
// a name; the first line that fits counts; a number need not be in the files, a name must; what is empty is
// 0, with the group of its line. The groups that have the user as a member are his, unless the group is
// given.
func FindAccount(spec, passwd, group string) (Account, error) {
	user, grp, _ := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	uid, numeric, err := ID(user)
	if err != nil {
		return Account{}, err
	}
	a := Account{Home: "/", UID: uid}
	name, found := "", false
	for line := range strings.Lines(passwd) { // name:password:uid:gid:comment:home:shell
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		uid, okUID := id(f[2])
		gid, okGID := id(f[3])
		// Docker reads invalid numbers as 0, which would make the user root.
		if !okUID || !okGID || numeric && uid != a.UID || !numeric && f[0] != user {
			continue
		}
		name, a.UID, a.GID, found = f[0], uid, gid, true
		if len(f) > 5 && f[5] != "" {
			a.Home = f[5]
		}
		break
	}
	if !found && !numeric {
		return Account{}, errors.New("no such user in the image's /etc/passwd; a number needs no entry")
	}
	gid, numeric, err := ID(grp)
	if err != nil {
		return Account{}, err
	}
	if numeric {
		a.GID = gid
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
				a.Groups = append(a.Groups, uint32(gid))
			}
		case f[0] == grp && !found:
			a.GID, found = gid, true
		}
	}
	if grp != "" && !found {
		return Account{}, errors.New("no such group in the image's /etc/group; a number needs no entry")
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
	return int(n), err == nil && n <= MaxKernelID
}
