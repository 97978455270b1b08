package images

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// listing collects the lines of [List].
type listing struct {
	lines []string
	inode map[string]string
}

func (l *listing) add(path, kind string, mode, uid, gid uint32, inode, detail string) {
	name := strconv.Quote(path)
	name = name[1 : len(name)-1]
	line := fmt.Sprintf("%s %s %o %d:%d", name, kind, mode, uid, gid)
	if kind == "l" { // the mode of a symbolic link means nothing
		line = fmt.Sprintf("%s l %s", name, detail)
		if uid != 0 || gid != 0 {
			line += fmt.Sprintf(" %d:%d", uid, gid)
		}
	} else if detail != "" {
		line += " " + detail
	}
	if first, ok := l.inode[inode]; ok && kind != "l" {
		line += " = " + first
	} else {
		l.inode[inode] = path
	}
	l.lines = append(l.lines, line)
}

// List reads a newc archive and returns a line for each entry, sorted by path: path, type, mode, owner, and
// content, target or device numbers. The line of a hard link ends in the first name of the file.
//
// It shares no code with package initramfs: it follows the kernel's buffer-format.rst, and fails the test if
// the kernel would not unpack an entry.
func List(t testing.TB, b []byte) []string {
	t.Helper()
	type file struct {
		path, kind string
		f          [13]uint32
		body       []byte
	}
	var files []file
	dirs := map[string]bool{"": true}
	seen := map[string]bool{}
	bodies := map[string][]byte{}
	at, ended := 0, false
	for at < len(b) && !ended {
		if !bytes.HasPrefix(b[at:], []byte("070701")) {
			t.Fatalf("no header at byte %d", at)
		}
		var e file
		for i := range e.f {
			raw, err := hex.DecodeString(string(b[at+6+8*i:][:8]))
			if err != nil {
				t.Fatal(err)
			}
			e.f[i] = uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3])
		}
		name := b[at+110:][:e.f[11]]
		if name[len(name)-1] != 0 {
			t.Fatalf("the name %q has no end", name)
		}
		e.path = string(name[:len(name)-1])
		at = (at + 110 + len(name) + 3) &^ 3
		e.body = b[at:][:e.f[6]]
		at = (at + len(e.body) + 3) &^ 3
		if ended = e.path == "TRAILER!!!"; ended {
			break
		}
		if seen[e.path] {
			t.Errorf("%q is in the archive twice", e.path)
		}
		seen[e.path] = true
		parent := ""
		if i := strings.LastIndexByte(e.path, '/'); i >= 0 {
			parent = e.path[:i]
		}
		if !dirs[parent] {
			t.Errorf("%q comes before its directory: the kernel would drop it", e.path)
		}
		e.kind = map[uint32]string{1: "p", 2: "c", 4: "d", 6: "b", 8: "f", 10: "l", 12: "s"}[e.f[1]>>12]
		if e.kind == "d" {
			dirs[e.path] = true
		}
		inode := fmt.Sprint(e.f[0])
		if e.kind == "f" && e.f[4] > 1 && len(e.body) > 0 {
			bodies[inode] = e.body
		}
		files = append(files, e)
	}
	if !ended || at != len(b) {
		t.Fatalf("trailer %t, %d bytes of %d", ended, at, len(b))
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	l := &listing{inode: map[string]string{}}
	for _, e := range files {
		inode := fmt.Sprint(e.f[0])
		body := e.body
		if linked, ok := bodies[inode]; ok {
			body = linked
		}
		detail := ""
		switch e.kind {
		case "f", "l":
			detail = strconv.Quote(string(body))
		case "c", "b":
			detail = fmt.Sprintf("%d:%d", e.f[9], e.f[10])
		}
		l.add(e.path, e.kind, e.f[1]&0o7777, e.f[2], e.f[3], inode, detail)
	}
	return l.lines
}

// Compare fails the test if the lines of got and want differ in more than their order.
func Compare(t testing.TB, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing %s", line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}
