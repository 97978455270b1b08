package images

import (
	"archive/tar"
	"strings"
	"testing"
)

// Puzzle is an image that is hard to merge, and its tree by the OCI image specification, or by Docker where
// the specification is silent.
type Puzzle struct {
	Name   string
	Layers [][]Entry
	Want   []string // lines as [List] returns them, in any order
}

// Archives returns the layers as tar archives.
func (p Puzzle) Archives(t testing.TB) [][]byte { return Layers(t, p.Layers...) }

// Puzzles are the images of the tests of merging.
var Puzzles = []Puzzle{
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
	{"what aufs kept, deeper", [][]Entry{
		{File("./.wh..wh.orph/x", "1")}, {File("d/.wh..wh.any/deep/y", "2"), File("c", "3")},
	}, []string{`c f 644 0:0 "3"`}},
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
		{Dir("real/", 0o755), File("real/x", "1"), Symlink("l", "real")},
		{Dir("l/", 0o755), File("l/y", "2")},
	}, []string{`l d 755 0:0`, `l/y f 644 0:0 "2"`, `real d 755 0:0`, `real/x f 644 0:0 "1"`}},
	{"symbolic link over directory", [][]Entry{
		{Dir("l/", 0o755), File("l/x", "1")}, {Symlink("l", "else")},
	}, []string{`l l "else"`}},
	{"through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), Dir("usr/lib/", 0o755), Symlink("lib", "usr/lib"), Symlink("abs", "/usr/lib")},
		{File("lib/x", "1"), File("abs/y", "2")},
	}, []string{`abs l "/usr/lib"`, `lib l "usr/lib"`, `usr d 755 0:0`, `usr/lib d 755 0:0`, `usr/lib/x f 644 0:0 "1"`, `usr/lib/y f 644 0:0 "2"`}},
	{"whiteout through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), File("usr/x", "1"), File("usr/y", "1"), Symlink("l", "usr")},
		{File("l/.wh.x", "")},
	}, []string{`l l "usr"`, `usr d 755 0:0`, `usr/y f 644 0:0 "1"`}},
	{"opaque through a symbolic link", [][]Entry{
		{Dir("usr/", 0o755), File("usr/x", "1"), Symlink("l", "usr")},
		{File("l/.wh..wh..opq", ""), File("l/n", "2")},
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
		Node(tar.TypeChar, "c", 4, 64), Node(tar.TypeBlock, "b", 259, 1_000_000),
		Node(tar.TypeFifo, "p", 0, 0),
		File("s", "x").With(func(h *tar.Header) { h.Mode = 0o6755; h.Uid, h.Gid = 1, 4_000_000_000 }),
		Dir("t/", 0o1777), File("none", "").With(func(h *tar.Header) { h.Mode = 0 }),
		Symlink("l", "s").With(func(h *tar.Header) { h.Uid, h.Gid = 7, 8 }),
	}}, []string{`b b 600 0:0 259:1000000`, `c c 600 0:0 4:64`, `l l "s" 7:8`, `none f 0 0:0 ""`, `p p 600 0:0`, `s f 6755 1:4000000000 "x"`, `t d 1777 0:0`}},
	{"attributes of a directory are the uppermost's", [][]Entry{
		{Dir("d/", 0o700), File("d/x", "1")}, {Dir("d/", 0o755).With(func(h *tar.Header) { h.Uid = 5 })},
	}, []string{`d d 755 5:0`, `d/x f 644 0:0 "1"`}},
	{"names of any bytes", [][]Entry{{
		File("new\nline", "1"), File("\xff\xfe", "2"), File("tab\tspace ", "3"), File("ümlaut", "4"),
		File(strings.Repeat("n", 255), "5"), File("...", "6"), File("a.wh.b", "7"),
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
	{"names with dots and slashes", [][]Entry{{Dir("./", 0o700), Dir("./a/", 0o755), File("././a//b", "1"),
		File("/c", "2"), Dir("/", 0o700)}},
		[]string{`a d 755 0:0`, `a/b f 644 0:0 "1"`, `c f 644 0:0 "2"`}},
	{"a name twice in a layer", [][]Entry{{File("f", "1"), File("f", "22"), Dir("d/", 0o700),
		File("d/x", "1"), Dir("d/", 0o755)}},
		[]string{`d d 755 0:0`, `d/x f 644 0:0 "1"`, `f f 644 0:0 "22"`}},
	{"a global header", [][]Entry{{
		Entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader,
			PAXRecords: map[string]string{"comment": "x"}}}, File("f", "1"),
	}}, []string{`f f 644 0:0 "1"`}},
	{"an empty layer", [][]Entry{{File("f", "1")}, {}, {File("g", "2")}}, []string{`f f 644 0:0 "1"`, `g f 644 0:0 "2"`}},
}
