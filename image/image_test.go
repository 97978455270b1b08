package image_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

func newTree(t testing.TB, l image.Limits) *image.Tree {
	t.Helper()
	tree := image.NewTree(t.TempDir(), l)
	t.Cleanup(func() { tree.Close() })
	return tree
}

// list walks a tree.
func list(t testing.TB, tree *image.Tree) (lines []string) {
	t.Helper()
	err := tree.Walk(func(e *image.Entry) error {
		var b bytes.Buffer
		if _, err := tree.CopyBody(&b, e); err != nil {
			return err
		}
		body := b.String()
		if len(body) > 20 {
			body = fmt.Sprintf("%.5s… %d", body, len(body))
		}
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%o %s %s%s", e.Mode, e.Path, e.Target, body),
			" "))
		if e.Links > 1 {
			lines[len(lines)-1] += fmt.Sprintf(" #%d of %d", e.Inode, e.Links)
		}
		for _, x := range e.Xattrs {
			lines[len(lines)-1] += fmt.Sprintf(" %s=%q", x.Name, x.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func same(t testing.TB, got, want []string) {
	t.Helper()
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}

func TestPut(t *testing.T) {
	tree := newTree(t, image.Limits{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	for _, p := range []struct {
		e       image.Entry
		content string
	}{
		{image.Entry{Path: "a/b", Mode: 0o100600, Xattrs: []image.Xattr{{Name: "user.z", Value: "\x00:1:"},
			{Name: "user.a", Value: ""}}}, "body"},
		{image.Entry{Path: "big", Mode: 0o100644}, string(big)},
		{image.Entry{Path: "l", Mode: 0o120777, Target: "a"}, ""},
		{image.Entry{Path: "l/c", Mode: 0o100644}, "through"},
		{image.Entry{Path: "a", Mode: 0o040711}, ""},
		{image.Entry{Path: "sock", Mode: 0o140755}, ""},
		{image.Entry{Path: "gone/x", Mode: 0o100644}, ""},
	} {
		if err := tree.Put(&p.e, []byte(p.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Remove("gone"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove("never/there"); err != nil {
		t.Fatal(err)
	}
	sub, err := tree.Sub("rootfs/")
	if err != nil {
		t.Fatal(err)
	}
	// A link inside a part of the tree stays in it.
	for _, e := range []image.Entry{{Path: "abs", Mode: 0o120777, Target: "/in"},
		{Path: "abs/x", Mode: 0o100644}} {
		if err := sub.Put(&e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := sub.Lookup("in/x"); !ok {
		t.Error("there is no in/x")
	}
	if e, ok := tree.Lookup("l/b"); !ok || e.Size != 4 {
		t.Errorf("l/b: %v %v", e, ok)
	}
	same(t, list(t, tree), []string{
		`40711 a`, `100600 a/b body user.a="" user.z="\x00:1:"`, `100644 a/c through`,
		`40755 rootfs`, `40755 rootfs/in`, `100644 rootfs/in/x`, `120777 rootfs/abs /in`,
		`100644 big 01234… 1600000`, `120777 l a`, `140755 sock`,
	})
	for _, e := range []image.Entry{
		{Path: "../x", Mode: 0o100644}, {Path: "x", Mode: 0o644}, {Path: "x\x00", Mode: 0o100644},
		{Path: "", Mode: 0o100644}, {Path: "x", Mode: 0o120777},
	} {
		if err := tree.Put(&e, nil); err == nil {
			t.Errorf("%q, mode %o: no error", e.Path, e.Mode)
		}
	}
}

// TestTarRound writes a tree as a tar archive and reads it back.
func TestTarRound(t *testing.T) {
	tree := newTree(t, image.Limits{})
	layer := Layer(t, Dir("d/", 0o711), File("d/"+strings.Repeat("n", 200), "1"),
		File("f", strings.Repeat("x", 100_000)), Link("g", "f"), Symlink("s", strings.Repeat("t/", 300)),
		Node('3', "c", 1, 5), Node('6', "p", 0, 0))
	if err := tree.AddTarReader(t.Context(), bytes.NewReader(layer), ""); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "x.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	epoch := int64(5)
	if err := tree.WriteTar(file, &epoch); err != nil {
		t.Fatal(err)
	}
	again := newTree(t, image.Limits{})
	if _, err := again.AddRoot(t.Context(), file.Name(), ""); err != nil {
		t.Fatal(err)
	}
	same(t, list(t, again), list(t, tree))
	if e, ok := again.Lookup("f"); !ok || e.ModTime != 5 {
		t.Errorf("%+v, want the time 5", e)
	}
}

// TestImagesOverEachOther joins two images: whiteouts of the second stay in the second, its directories go
// through links of the first, and nothing of the first vanishes in silence.
func TestImagesOverEachOther(t *testing.T) {
	type layers = [][]Entry
	for _, c := range []struct {
		name   string
		images []layers
		want   []string // lines, or one error
	}{
		{"whiteouts", []layers{
			{{Dir("d/", 0o700), File("d/one", "1"), File("both", "1"), Dir("dir/", 0o755)}},
			{{File("two", "2")}, {File(".wh.two", ""), File("d/.wh.one", ""), File("both", "2"),
				Dir("d/", 0o711), File("dir", "2")}},
		}, []string{`40711 p/q/d`, `100644 p/q/d/one 1`, `100644 p/q/both 2`, `100644 p/q/dir 2`}},
		{"directory over link", []layers{
			{{Dir("usr/", 0o700), Dir("usr/lib/", 0o711), File("usr/lib/libc", "1"),
				Symlink("lib", "usr/lib")}},
			{{Dir("lib/", 0o755), Dir("lib/modules/", 0o755), File("lib/modules/x.ko", "2")}},
		}, []string{`40700 p/q/usr`, `40711 p/q/usr/lib`, `40755 p/q/usr/lib/modules`, `100644 p/q/usr/lib/modules/x.ko 2`, `100644 p/q/usr/lib/libc 1`, `120777 p/q/lib usr/lib`}},
		{"directory over a link of the whole tree, and one through another", []layers{
			{{Dir("usr/", 0o755), Dir("usr/lib/", 0o755), Symlink("l", "/usr/up"),
				Symlink("usr/up", "../usr/lib")}},
			{{File("l/x", "2"), Symlink("usr/lib/y", "x")}},
		}, []string{`40755 p/q/usr`, `40755 p/q/usr/lib`, `100644 p/q/usr/lib/x 2`, `120777 p/q/usr/lib/y x`, `120777 p/q/usr/up ../usr/lib`, `120777 p/q/l /usr/up`}},
		{"directory over a link to nothing", []layers{
			{{Symlink("l", "nowhere")}}, {{File("l/x", "2")}},
		}, []string{`40755 p/q/l`, `100644 p/q/l/x 2`}},
		{"link over an empty directory", []layers{
			{{Dir("run/", 0o755), Dir("var/run/", 0o755)}}, {{Symlink("var/run", "/run")}},
		}, []string{`40755 p/q/run`, `40755 p/q/var`, `120777 p/q/var/run /run`}},
		{"link over directory", []layers{
			{{File("lib/modules/x.ko", "1")}}, {{File("usr/lib/libc", "2"), Symlink("lib", "usr/lib")}},
		}, []string{"lib is not a directory: it would replace one that is not empty"}},
		{"file over directory", []layers{
			{{File("d/x", "1")}}, {{File("d", "2")}},
		}, []string{"d is not a directory: it would replace one that is not empty"}},
		{"links in a circle", []layers{
			{{Symlink("a", "b"), Symlink("b", "a")}}, {{File("a/x", "2")}},
		}, []string{"more than 40 symbolic links"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := newTree(t, image.Limits{})
			for i, layers := range c.images {
				ref := layoutOf(t, Layers(t, layers...), Gzip)
				err := addImage(t, tree, ref, "p/q")
				if i > 0 && len(c.want) == 1 {
					if err == nil || !strings.Contains(err.Error(), c.want[0]) ||
						!strings.Contains(err.Error(), ref) {
						t.Errorf("got %v, want %q and %s", err, c.want[0], ref)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			same(t, list(t, tree), append([]string{`40755 p`, `40755 p/q`}, c.want...))
		})
	}
}

// TestManyFiles has more entries than the journal keeps in memory and the table begins with, and bounds what
// they cost.
func TestManyFiles(t *testing.T) {
	const n = 100_000
	layer := func() []byte { // and the entries are gone before anything is counted
		var entries []Entry
		for i := range n {
			entries = append(entries, File(fmt.Sprintf("usr/share/d%03d/file-%06d", i/200, i), fmt.Sprint(i)))
		}
		return Layer(t, entries...)
	}()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	tree := newTree(t, image.Limits{})
	if err := tree.AddTarReader(t.Context(), bytes.NewReader(layer), ""); err != nil {
		t.Fatal(err)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes for each file", each)
	if each > 150 { // 300 MB for DefaultLimits.Entries
		t.Errorf("a file takes %d bytes of memory, want at most 150", each)
	}
	files := 0
	err := tree.Walk(func(e *image.Entry) error {
		if e.IsRegular() {
			files++
			var b bytes.Buffer
			if _, err := tree.CopyBody(&b, e); err != nil {
				return err
			}
			if want := strings.TrimLeft(e.Path[len(e.Path)-6:], "0"); b.String() != want &&
				b.String() != "0" {
				return fmt.Errorf("%s has the body %q", e.Path, b.String())
			}
		}
		return nil
	})
	if err != nil || files != n {
		t.Errorf("%d files, %v", files, err)
	}
	runtime.KeepAlive(layer)
}

// TestPlaces opens images in directories whose names hold what separates a name or digest from the place.
func TestPlaces(t *testing.T) {
	l := NewLayout(t)
	d := l.Image("amd64", [][]byte{Layer(t, File("one", "1"))}, Gzip)
	l.Name(d, "team/app:1")
	dirOf := l.Dir()
	for _, place := range []string{"plain", "a@b", "a:b", "a@b:c"} {
		dir := filepath.Join(t.TempDir(), place)
		if err := os.CopyFS(dir, os.DirFS(dirOf)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", ":team/app:1", "@" + d.Digest, ":team/app:1@" + d.Digest} {
			img, err := image.Open(t.Context(), "oci:"+dir+name, image.Options{Arch: "x86_64"})
			if err != nil {
				t.Errorf("oci:%s%s: %v", place, name, err)
				continue
			}
			img.Close()
		}
		if _, err := image.Open(t.Context(), dir, image.Options{Arch: "x86_64"}); err == nil ||
			!strings.Contains(err.Error(), "oci:"+dir+", oci-archive:") {
			t.Errorf("%s: a place without what it is: %v", place, err)
		}
		if _, err := image.Open(t.Context(), "oci:"+dir+":other", image.Options{Arch: "x86_64"}); err == nil {
			t.Errorf("%s: a name that is not there was found", place)
		}
	}
}
