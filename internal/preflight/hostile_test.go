package preflight

import (
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
