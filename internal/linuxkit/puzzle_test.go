package linuxkit_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// puzzles are images, and the trees that the OCI image specification, or Docker where that says nothing, makes of them. A
// tree is a list of lines as [listing] writes them, without what every image has.
var puzzles = []struct {
	name   string
	layers [][]Entry
	want   []string
}{
	{"whiteout", [][]Entry{
		{Dir("a/", 0o755), File("a/gone", "1"), File("a/kept", "2"), Dir("d/", 0o755), File("d/x", "3")},
		{File("a/.wh.gone", ""), File(".wh.d", "")},
	}, []string{`a d 755 0:0`, `a/kept f 644 0:0 "2"`}},
	{"whiteout and new in one layer, new first", [][]Entry{
		{Dir("d/", 0o700), File("d/old", "1")},
		{Dir("d/", 0o711), File("d/new", "2"), File(".wh.d", "")},
	}, []string{`d d 711 0:0`, `d/new f 644 0:0 "2"`}},
	{"whiteout of a directory that the layer only implies", [][]Entry{
		{Dir("d/", 0o700), File("d/old", "1")},
		{File("d/new", "2"), File(".wh.d", "")},
	}, []string{`d d 755 0:0`, `d/new f 644 0:0 "2"`}},
	{"whiteout, then the same name again", [][]Entry{
		{File("f", "1")}, {File(".wh.f", "")}, {File("f", "3")},
	}, []string{`f f 644 0:0 "3"`}},
	{"whiteout of nothing", [][]Entry{
		{File("f", "1")}, {File(".wh.none", ""), File("no/where/.wh.x", ""), File("f/.wh.x", "")},
	}, []string{`f f 644 0:0 "1"`}},
	{"opaque", [][]Entry{
		{Dir("a/", 0o755), File("a/lower", "1"), Dir("a/sub/", 0o755), File("a/sub/lower", "1")},
		{Dir("a/", 0o750), File("a/.wh..wh..opq", ""), File("a/upper", "2")},
	}, []string{`a d 750 0:0`, `a/upper f 644 0:0 "2"`}},
	{"opaque, last in its layer", [][]Entry{
		{Dir("a/", 0o755), File("a/lower", "1"), Dir("a/sub/", 0o755), File("a/sub/lower", "1")},
		{File("a/upper", "2"), File("a/sub/upper", "2"), File("a/.wh..wh..opq", "")},
	}, []string{`a d 755 0:0`, `a/sub d 755 0:0`, `a/sub/upper f 644 0:0 "2"`, `a/upper f 644 0:0 "2"`}},
	{"opaque, then more in a third layer", [][]Entry{
		{File("a/1", "1")}, {File("a/.wh..wh..opq", ""), File("a/2", "2")}, {File("a/3", "3")},
	}, []string{`a d 755 0:0`, `a/2 f 644 0:0 "2"`, `a/3 f 644 0:0 "3"`}},
	{"opaque in the root", [][]Entry{
		{File("x", "1"), File("y/z", "1")}, {File(".wh..wh..opq", ""), File("n", "2")},
	}, []string{`n f 644 0:0 "2"`}},
	{"what aufs kept for itself", [][]Entry{
		{File(".wh..wh.aufs", ""), Dir(".wh..wh.plnk/", 0o700), File("f", "1")},
	}, []string{`f f 644 0:0 "1"`}},
	{"what aufs linked", [][]Entry{
		{Dir(".wh..wh.plnk/", 0o700), File(".wh..wh.plnk/1.2", "body"), Link("a", ".wh..wh.plnk/1.2"), Link("d/b", "./.wh..wh.plnk/1.2"), File("./.wh..wh.orph/x", "1")},
		{File(".wh..wh.plnk/3.4", "not linked"), File("d/.wh..wh.any/deep/y", "2"), File("c", "3")},
	}, []string{`a f 644 0:0 "body"`, `c f 644 0:0 "3"`, `d d 755 0:0`, `d/b f 644 0:0 "body" = a`}},
	{"what aufs linked, links first", [][]Entry{
		{Link("a", "/.wh..wh.plnk/1.2"), File("/.wh..wh.plnk/1.2", "body")},
	}, []string{`a f 644 0:0 "body"`}},
	{"sparse files, the second in the place of a plain one", [][]Entry{
		{File("a/b", "1"), Sparse("hole", "", 7)}, {Sparse("a/b", "data", 9), File("after", "2")},
	}, []string{`a d 755 0:0`, `a/b f 644 0:0 "data\x00\x00\x00\x00\x00"`, `after f 644 0:0 "2"`, `hole f 644 0:0 "\x00\x00\x00\x00\x00\x00\x00"`}},
	{"parents in a lower layer", [][]Entry{
		{Dir("opt/", 0o755), Dir("opt/d/", 0o711)}, {File("opt/d/b", "1")},
	}, []string{`opt d 755 0:0`, `opt/d d 711 0:0`, `opt/d/b f 644 0:0 "1"`}},
	{"parents nowhere", [][]Entry{{File("a/b/c", "1")}},
		[]string{`a d 755 0:0`, `a/b d 755 0:0`, `a/b/c f 644 0:0 "1"`}},
	{"children before their parents", [][]Entry{{File("a/b/c", "1"), Dir("a/b/", 0o700), Dir("a/", 0o711)}},
		[]string{`a d 711 0:0`, `a/b d 700 0:0`, `a/b/c f 644 0:0 "1"`}},
	{"file to directory and back", [][]Entry{
		{File("f", "1"), Dir("d/", 0o755), File("d/x", "1")},
		{Dir("f/", 0o755), File("f/x", "2"), File("d", "2")},
	}, []string{`d f 644 0:0 "2"`, `f d 755 0:0`, `f/x f 644 0:0 "2"`}},
	{"a file in the way of a parent", [][]Entry{{File("f", "1")}, {File("f/x", "2")}},
		[]string{`f d 755 0:0`, `f/x f 644 0:0 "2"`}},
	{"directory over symbolic link", [][]Entry{
		{Dir("real/", 0o755), File("real/x", "1"), Symlink("l", "real")}, {Dir("l/", 0o755), File("l/y", "2")},
	}, []string{`l d 755 0:0`, `l/y f 644 0:0 "2"`, `real d 755 0:0`, `real/x f 644 0:0 "1"`}},
	{"symbolic link over directory", [][]Entry{
		{Dir("l/", 0o755), File("l/x", "1")}, {Symlink("l", "else")},
	}, []string{`l l "else"`}},
	{"through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), Dir("usr/lib/", 0o755), Symlink("lib", "usr/lib"), Symlink("abs", "/usr/lib")}, {File("lib/x", "1"), File("abs/y", "2")},
	}, []string{`abs l "/usr/lib"`, `lib l "usr/lib"`, `usr d 755 0:0`, `usr/lib d 755 0:0`, `usr/lib/x f 644 0:0 "1"`, `usr/lib/y f 644 0:0 "2"`}},
	{"whiteout through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), File("usr/x", "1"), File("usr/y", "1"), Symlink("l", "usr")}, {File("l/.wh.x", "")},
	}, []string{`l l "usr"`, `usr d 755 0:0`, `usr/y f 644 0:0 "1"`}},
	{"opaque through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), File("usr/x", "1"), Symlink("l", "usr")}, {File("l/.wh..wh..opq", ""), File("l/n", "2")},
	}, []string{`l l "usr"`, `usr d 755 0:0`, `usr/n f 644 0:0 "2"`}},
	{"a symbolic link that leads out stays in", [][]Entry{
		{Symlink("out", "../../../../d"), Symlink("up", "..")}, {File("out/x", "1"), File("up/y", "2")},
	}, []string{`d d 755 0:0`, `d/x f 644 0:0 "1"`, `out l "../../../../d"`, `up l ".."`, `y f 644 0:0 "2"`}},
	{"links to links", [][]Entry{
		{Dir("d/", 0o755), Symlink("1", "2"), Symlink("2", "/3/"), Symlink("3", "./d")}, {File("1/x", "1")},
	}, []string{`1 l "2"`, `2 l "/3/"`, `3 l "./d"`, `d d 755 0:0`, `d/x f 644 0:0 "1"`}},
	{"hard links", [][]Entry{
		{File("b", "body"), Link("a", "b"), Dir("d/", 0o755), Link("d/c", "./a")},
	}, []string{`a f 644 0:0 "body"`, `b f 644 0:0 "body" = a`, `d d 755 0:0`, `d/c f 644 0:0 "body" = a`}},
	{"a hard link to a lower layer", [][]Entry{{File("z", "body")}, {Link("a", "/z")}},
		[]string{`a f 644 0:0 "body"`, `z f 644 0:0 "body" = a`}},
	{"a hard link before its target", [][]Entry{{Link("a", "b"), Link("b", "c"), File("c", "body")}},
		[]string{`a f 644 0:0 "body"`, `b f 644 0:0 "body" = a`, `c f 644 0:0 "body" = a`}},
	{"a hard link whose target goes", [][]Entry{
		{File("t", "body"), Link("l", "t"), Link("m", "t")}, {File(".wh.t", "")},
	}, []string{`l f 644 0:0 "body"`, `m f 644 0:0 "body" = l`}},
	{"a hard link whose target changes", [][]Entry{
		{File("t", "old"), Link("l", "t")}, {File("t", "new")},
	}, []string{`l f 644 0:0 "old"`, `t f 644 0:0 "new"`}},
	{"a hard link to a symbolic link", [][]Entry{{Symlink("s", "nowhere"), Link("h", "s")}},
		[]string{`h l "nowhere"`, `s l "nowhere"`}},
	{"hard links without bytes, and of a device", [][]Entry{
		{File("e", ""), Link("f", "e"), Node(tar.TypeChar, "n", 1, 3), Link("o", "n")},
	}, []string{`e f 644 0:0 ""`, `f f 644 0:0 "" = e`, `n c 600 0:0 1:3`, `o c 600 0:0 1:3 = n`}},
	{"devices, fifos, bits and owners", [][]Entry{{
		Node(tar.TypeChar, "c", 4, 64), Node(tar.TypeBlock, "b", 259, 1_000_000), Node(tar.TypeFifo, "p", 0, 0),
		File("s", "x").With(func(h *tar.Header) { h.Mode = 0o6755; h.Uid, h.Gid = 1, 4_000_000_000 }),
		Dir("t/", 0o1777), File("none", "").With(func(h *tar.Header) { h.Mode = 0 }),
		Symlink("l", "s").With(func(h *tar.Header) { h.Uid, h.Gid = 7, 8 }),
	}}, []string{`b b 600 0:0 259:1000000`, `c c 600 0:0 4:64`, `l l "s" 7:8`, `none f 0 0:0 ""`, `p p 600 0:0`, `s f 6755 1:4000000000 "x"`, `t d 1777 0:0`}},
	{"attributes of a directory are the uppermost's", [][]Entry{
		{Dir("d/", 0o700), File("d/x", "1")}, {Dir("d/", 0o755).With(func(h *tar.Header) { h.Uid = 5 })},
	}, []string{`d d 755 5:0`, `d/x f 644 0:0 "1"`}},
	{"names of any bytes", [][]Entry{{
		File("new\nline", "1"), File("\xff\xfe", "2"), File("tab\tspace ", "3"), File("ümlaut", "4"), File(strings.Repeat("n", 255), "5"), File("...", "6"), File("a.wh.b", "7"),
	}}, []string{
		`... f 644 0:0 "6"`, `a.wh.b f 644 0:0 "7"`, `new\nline f 644 0:0 "1"`, strings.Repeat("n", 255) + ` f 644 0:0 "5"`, `tab\tspace  f 644 0:0 "3"`, `ümlaut f 644 0:0 "4"`, `\xff\xfe f 644 0:0 "2"`,
	}},
	{"a long path", [][]Entry{{File(strings.Repeat("d/", 100)+strings.Repeat("x", 200), "1")}},
		append(func() (dirs []string) {
			for i := range 100 {
				dirs = append(dirs, strings.Repeat("d/", i)+"d d 755 0:0")
			}
			return dirs
		}(), strings.Repeat("d/", 100)+strings.Repeat("x", 200)+` f 644 0:0 "1"`)},
	{"names with dots and slashes", [][]Entry{{Dir("./", 0o700), Dir("./a/", 0o755), File("././a//b", "1"), File("/c", "2"), Dir("/", 0o700)}},
		[]string{`a d 755 0:0`, `a/b f 644 0:0 "1"`, `c f 644 0:0 "2"`}},
	{"a name twice in a layer", [][]Entry{{File("f", "1"), File("f", "22"), Dir("d/", 0o700), File("d/x", "1"), Dir("d/", 0o755)}},
		[]string{`d d 755 0:0`, `d/x f 644 0:0 "1"`, `f f 644 0:0 "22"`}},
	{"a global header", [][]Entry{{
		Entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, File("f", "1"),
	}}, []string{`f f 644 0:0 "1"`}},
	{"an empty layer", [][]Entry{{File("f", "1")}, {}, {File("g", "2")}}, []string{`f f 644 0:0 "1"`, `g f 644 0:0 "2"`}},
}

const hosts = `127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
`

// everyImage is what [Build] adds to each image (see presented).
var everyImage = []string{
	`dev d 755 0:0`, `dev/pts d 755 0:0`, `dev/shm d 755 0:0`, `etc d 755 0:0`, `etc/hosts f 644 0:0 ` + strconv.Quote(hosts), `etc/mtab l "/proc/mounts"`,
	`etc/resolv.conf l "/run/resolvconf/resolv.conf"`, `proc d 755 0:0`, `sys d 755 0:0`,
}

// listing writes one line for each name in a tree, sorted: path, type, mode, owner, and content, target or numbers. Later
// names of a file with several end in the first.
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

// newc is a reader of archives that shares nothing with package initramfs, nor with what it tests: the kernel's
// buffer-format.rst, read to the letter. It fails where the kernel would not unpack an entry.
func newc(t testing.TB, b []byte) *listing {
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
			t.Errorf("%q stands twice in the archive", e.path)
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
	return l
}

// opener opens the image that a YAML names as it is, by its transport.
func opener(t testing.TB) func(context.Context, string) (*image.Image, error) {
	return func(ctx context.Context, ref string) (*image.Image, error) {
		return image.Open(ctx, ref, image.Options{Arch: "x86_64", TempDir: t.TempDir()})
	}
}

// ramdisk builds and writes.
func ramdisk(t testing.TB, c *linuxkit.Config, r linuxkit.Ramdisk) ([]byte, error) {
	t.Helper()
	tree, err := linuxkit.Build(t.Context(), c, linuxkit.Options{Open: opener(t), Dir: t.TempDir()})
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	var b bytes.Buffer
	if err := linuxkit.WriteRamdisk(&b, tree, r); err != nil {
		return nil, err
	}
	// The same through a file, which the kernel copies to.
	f, err := os.Create(filepath.Join(t.TempDir(), "ramdisk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := linuxkit.WriteRamdisk(f, tree, r); err != nil {
		return nil, err
	}
	if again, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(again, b.Bytes()) {
		t.Errorf("a ramdisk written to a file differs from one written to memory (%v)", err)
	}
	return b.Bytes(), nil
}

func layers(t testing.TB, entries [][]Entry) [][]byte {
	var all [][]byte
	for _, e := range entries {
		all = append(all, Layer(t, e...))
	}
	return all
}

func wanted(lines []string) []string {
	want := append(slices.Clone(lines), everyImage...)
	slices.SortFunc(want, byPath)
	return want
}

// byPath compares lines by the path that they begin with, which Quote has changed.
func byPath(a, b string) int { return strings.Compare(rawPath(a), rawPath(b)) }

func rawPath(line string) string {
	for i := len(line); i > 0; i-- {
		// the path ends before the last " K " whose rest is no path: kinds are one letter
		if rest := line[i-1:]; len(rest) > 3 && rest[0] == ' ' && strings.Contains("fdlcbps", rest[1:2]) && rest[2] == ' ' {
			if path, err := strconv.Unquote(`"` + line[:i-1] + `"`); err == nil {
				return path
			}
		}
	}
	return line
}

func TestPuzzles(t *testing.T) {
	for _, p := range puzzles {
		t.Run(p.name, func(t *testing.T) {
			l := NewLayout(t)
			l.Name(l.Image("amd64", layers(t, p.layers), Gzip, Plain, Zstd), "")
			b, err := ramdisk(t, &linuxkit.Config{Init: []string{"oci:" + l.Dir()}}, linuxkit.Ramdisk{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, newc(t, b).lines, wanted(p.want))
		})
	}
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("there is     %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("there is not %s", line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}
