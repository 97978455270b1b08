package preflight

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// TestHostile: the work for a hostile tree is bounded, and what is left out of it is said.
func TestHostile(t *testing.T) {
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("lib%05d.so", i)
	}
	ring := files{"app": needs("lib0.so"), glibc[1:]: library}
	for i := range 200 {
		ring[fmt.Sprintf("lib/lib%d.so", i)] = binary64{
			needed:  append([]string{fmt.Sprintf("lib%d.so", (i+1)%200)}, many...),
			runpath: strings.Repeat("/l/l/l/l/l/l/l/l:$ORIGIN/$LIB:", 100),
		}.String()
	}
	ring["l"] = "-> ./././././././././././l/l/l/l/l/l"
	for _, c := range []struct {
		name string
		tree files
		want Code // of the last finding
	}{
		{"10,000 libraries that are missing", files{"app": needs(many...), glibc[1:]: library},
			LibraryMissing},
		{"10,000 libraries by a long path", files{"app": binary64{loader: glibc, needed: many,
			runpath: strings.Repeat("/a/long/directory/that/nothing/has:", 3000)}.String(),
			glibc[1:]: library},
			LibraryMissing},
		{"200 libraries that need 10,000 each", ring, Unchecked},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := c.tree.root(t)
			check := checker{root: root, arch: arch.X86_64, cwd: "/"}
			check.command("/app")
			if n := len(check.found); n == 0 || n > maxMissing+1 || check.found[n-1].Code != c.want {
				t.Errorf("%d findings: %.1000v", n, check.found)
			}
		})
	}
}

// TestOverlapping changes where parts of a program are, one field after the other, so that they lie over each
// other or outside of the file. The check ends with one finding, or with none where the kernel takes it too.
func TestOverlapping(t *testing.T) {
	good := needs("a.so")
	// the second and third program header; the offset of a part is at byte 8
	interp, dynamic := 64+56, 64+2*56
	for _, c := range []struct {
		name  string
		field int // of the file, 8 bytes
		value uint64
		want  Code // "" for none
	}{
		{"as it is", interp + 8, 64 + 3*56, ""},
		{"loader over the header", interp + 8, 0, LoaderMissing},
		{"loader over the program headers", interp + 8, 64, LoaderMissing},
		{"loader outside", interp + 8, 1 << 40, CommandFormat},
		{"loader of 2^63 bytes", interp + 32, 1 << 63, CommandFormat},
		{"libraries over the header", dynamic + 8, 0, ""},
		{"libraries outside", dynamic + 8, 1 << 40, ""},
		{"libraries of 2^63 bytes", dynamic + 32, 1 << 63, CommandFormat},
		{"a segment beyond the end of memory", 64 + 8, 1<<64 - 1, CommandFormat},
		{"program headers over themselves", 32, 0, CommandFormat},
	} {
		program := []byte(good)
		binary.LittleEndian.PutUint64(program[c.field:], c.value)
		tree := files{"app": string(program), glibc[1:]: library, "lib/a.so": library}
		app := Application{Arch: arch.X86_64, Root: tree.root(t),
			About: contract.Description{Cmd: []string{"/app"}}}
		switch found := app.Check(); {
		case len(found) == 0 && c.want == "":
		case len(found) != 1 || found[0].Code != c.want:
			t.Errorf("%s: found %v, want %q", c.name, found, c.want)
		}
	}
}

// FuzzProgram checks programs of any bytes: none may panic, and every finding is one line.
func FuzzProgram(f *testing.F) {
	f.Add([]byte(static))
	f.Add([]byte(needs("a.so", "b.so")))
	f.Add([]byte(binary64{loader: musl, needed: []string{"a.so"}, rpath: "$ORIGIN:$LIB",
		runpath: "x:"}.String()))
	f.Add([]byte("#!/usr/bin/env -S a b\r\n"))
	f.Add([]byte("#!\x00"))
	f.Fuzz(func(t *testing.T, program []byte) {
		tree := image.NewTree("", image.Limits{})
		defer tree.Close()
		for _, name := range []string{"app", "lib/a.so", glibc[1:], musl[1:], "usr/bin/env"} {
			if err := tree.Put(&image.Entry{Path: name, Mode: initramfs.TypeFile | 0o755},
				program); err != nil {
				t.Fatal(err)
			}
		}
		app := Application{Arch: arch.X86_64, Root: tree, About: contract.Description{Cmd: []string{"/app"}}}
		for _, f := range app.Check() {
			if strings.ContainsAny(f.String(), "\n\r\x1b\x00") {
				t.Errorf("%q", f)
			}
		}
	})
}
