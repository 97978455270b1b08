// Command lister is PID 1 of the machine that the puzzles are unpacked in: it lists them on the console and
// waits for its end.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		select {}
	}
	const top = "/puzzles"
	entries, err := os.ReadDir(top)
	fmt.Fprintln(console, "PUZZLES", len(entries), err)
	for _, e := range entries {
		list(console, filepath.Join(top, e.Name()), e.Name())
	}
	fmt.Fprintln(console, "PUZZLES END")
	select {}
}

// list writes lines as the test's listing does.
func list(console *os.File, root, number string) {
	inodes := map[uint64]string{}
	var paths []string
	filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintln(console, "PUZZLE", number+"/"+err.Error())
		} else if path != root {
			paths = append(paths, path)
		}
		return nil
	})
	// WalkDir goes by directories; hard links are counted in the order of whole paths.
	first := map[uint64]string{}
	for _, path := range paths {
		var st syscall.Stat_t
		rel := strings.TrimPrefix(path, root+"/")
		if syscall.Lstat(path, &st) == nil {
			if f, ok := first[st.Ino]; !ok || rel < f {
				first[st.Ino] = rel
			}
		}
	}
	for _, path := range paths {
		rel := strings.TrimPrefix(path, root+"/")
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			fmt.Fprintln(console, "PUZZLE", number+"/"+err.Error())
			continue
		}
		name := strconv.Quote(rel)
		name = name[1 : len(name)-1]
		kind := map[uint32]string{1: "p", 2: "c", 4: "d", 6: "b", 8: "f", 10: "l", 12: "s"}[st.Mode>>12]
		line := fmt.Sprintf("%s %s %o %d:%d", name, kind, st.Mode&0o7777, st.Uid, st.Gid)
		switch kind {
		case "l":
			target, _ := os.Readlink(path)
			line = fmt.Sprintf("%s l %q", name, target)
			if st.Uid != 0 || st.Gid != 0 {
				line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
			}
		case "f":
			body, _ := os.ReadFile(path)
			line += " " + strconv.Quote(string(body))
		case "c", "b":
			dev := st.Rdev
			line += fmt.Sprintf(" %d:%d", dev>>8&0xfff|dev>>32&^0xfff, dev&0xff|dev>>12&^0xff)
		}
		if f := first[st.Ino]; f != rel && kind != "l" {
			line += " = " + f
		}
		inodes[st.Ino] = rel
		fmt.Fprintln(console, "PUZZLE", number+"/"+line)
	}
}
