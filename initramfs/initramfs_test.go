package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

type entry struct {
	Header
	body string
}

// every kind of entry, a hard link, names and bodies of all lengths modulo four
var sample = []entry{
	{Header: Header{Name: "dev", Mode: TypeDir | 0o755}},
	{Header: Header{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1}},
	{Header: Header{Name: "dev/loop0", Mode: TypeBlock | 0o660, GID: 6, Major: 7, Minor: 256}},
	{Header: Header{Name: "dev/pipe", Mode: TypeFifo | 0o644}},
	{Header: Header{Name: "dev/log", Mode: TypeSocket | 0o666}},
	{Header: Header{Name: "empty", Mode: TypeFile | 0o644, ModTime: 1}},
	{Header: Header{Name: "f", Mode: TypeFile | 0o4755, UID: 1, GID: 2, ModTime: 1<<32 - 1}, body: "1"},
	{Header: Header{Name: "ff", Mode: TypeFile | 0o2755, Inode: 100, Links: 2}, body: "12"},
	{Header: Header{Name: "fff", Mode: TypeFile | 0o2755, Inode: 100, Links: 2}},
	{Header: Header{Name: "ffff", Mode: TypeFile, UID: 1<<32 - 2}, body: "123"},
	{Header: Header{Name: "link", Mode: TypeSymlink | 0o777}, body: "../somewhere/else"},
	{Header: Header{Name: "tmp", Mode: TypeDir | 0o1777}},
	{Header: Header{Name: "tmp/\xff\n ü", Mode: TypeFile | 0o600}, body: "1234"},
}

func write(t testing.TB, w io.Writer, entries []entry) {
	t.Helper()
	a := NewWriter(w)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := a.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(a, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(r io.Reader) ([]entry, error) {
	a := NewReader(r)
	var all []entry
	for {
		h, err := a.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		body, err := io.ReadAll(a)
		if err != nil {
			return all, err
		}
		all = append(all, entry{*h, string(body)})
	}
}

func TestGolden(t *testing.T) {
	var b bytes.Buffer
	write(t, &b, sample)
	golden := filepath.Join("testdata", "sample.cpio")
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the archive differs from %s (go test -update writes it anew)", golden)
	}
}

func TestReadWhatWasWritten(t *testing.T) {
	var b bytes.Buffer
	write(t, &b, sample)
	b.Write(make([]byte, 512)) // zeros between archives are allowed
	write(t, &b, sample[:1])
	got, err := read(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := append(append([]entry{}, sample...), sample[0])
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, e := range got {
		w := want[i]
		w.Size, w.Inode, w.Links = e.Size, e.Inode, e.Links // numbered by the writer
		if e.Name == "fff" {
			w.LinkTo = "ff"
		}
		if e != w {
			t.Errorf("entry %d: %+v, want %+v", i, e, w)
		}
		if e.Size != int64(len(w.body)) {
			t.Errorf("%s: size %d, want %d", e.Name, e.Size, len(w.body))
		}
	}
}

// TestCpioReads lets GNU cpio unpack what was written.
func TestCpioReads(t *testing.T) {
	cpio := require.Command(t, "cpio")
	var b bytes.Buffer
	write(t, &b, sample)
	cmd := exec.Command(cpio, "-itv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = &b
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for _, want := range []string{
		"drwxr-xr-x   2 0        0", "crw-------   1 0        0          5,   1",
		"brw-rw----   1 0        6          7, 256",
		"-rwsr-xr-x   1 1        2               1", "-rwxr-sr-x   2 0        0               2",
		"link -> ../somewhere/else",
		"drwxrwxrwt", "prw-r--r--", "srw-rw-rw-",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
}

// TestReadFrom fills bodies from files, large enough for the kernel to copy and small enough not to.
func TestReadFrom(t *testing.T) {
	dir := t.TempDir()
	from, err := os.Create(filepath.Join(dir, "from"))
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef\n"), 100_000)
	if _, err := from.Write(data); err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(filepath.Join(dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	a := NewWriter(to)
	sizes := []int{0, 1, 1000, bufferSize - 1, bufferSize, bufferSize + 1, 1_500_001}
	for i, size := range sizes {
		if err := a.WriteHeader(&Header{Name: fmt.Sprint(i), Mode: TypeFile, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := from.Seek(int64(i), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if n, err := a.ReadFrom(io.LimitReader(from, 1<<40)); err != nil || n != int64(size) {
			t.Fatalf("%d bytes: %d, %v", size, n, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := to.Stat(); err != nil || info.Size() != a.Len() {
		t.Errorf("Len is %d, the file has %d (%v)", a.Len(), info.Size(), err)
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := read(to)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		if e.body != string(data[i:][:sizes[i]]) {
			t.Errorf("the body of %d bytes differs", sizes[i])
		}
	}
	if err := NewWriter(to).WriteHeader(&Header{Name: "x", Mode: TypeFile, Size: 1}); err != nil {
		t.Fatal(err)
	}
}

func TestReadFromShort(t *testing.T) {
	for _, size := range []int64{10, bufferSize * 2} {
		a := NewWriter(io.Discard)
		if err := a.WriteHeader(&Header{Name: "x", Mode: TypeFile, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.ReadFrom(strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("size %d: %v, want an unexpected end", size, err)
		}
		if err := a.Close(); err == nil {
			t.Error("Close took a broken archive")
		}
	}
}

func TestErrors(t *testing.T) {
	long := strings.Repeat("a/", 2047)
	for _, c := range []struct {
		name string
		h    Header
		want string
	}{
		{"no name", Header{Mode: TypeDir}, "name is empty"},
		{"absolute", Header{Name: "/a", Mode: TypeDir}, "empty"},
		{"trailing slash", Header{Name: "a/", Mode: TypeDir}, "empty"},
		{"dot", Header{Name: "./a", Mode: TypeDir}, `"."`},
		{"dots", Header{Name: "../a", Mode: TypeDir}, `".."`},
		{"NUL", Header{Name: "a\x00b", Mode: TypeFile}, "NUL"},
		{"trailer", Header{Name: trailer, Mode: TypeFile}, "marks the end of an archive"},
		{"long part", Header{Name: strings.Repeat("x", 256), Mode: TypeFile}, "at most 255"},
		{"long name", Header{Name: long + "xy", Mode: TypeFile}, "at most 4095"},
		{"orphan", Header{Name: "a/b", Mode: TypeFile}, "no entry for its directory before it"},
		{"no type", Header{Name: "a", Mode: 0o644}, "unknown file type"},
		{"high bits", Header{Name: "a", Mode: 1<<20 | TypeFile}, "above the file type"},
		{"4 GiB", Header{Name: "a", Mode: TypeFile, Size: 1 << 32}, "cannot hold a file of 4 GiB"},
		{"negative", Header{Name: "a", Mode: TypeFile, Size: -1}, "invalid size -1"},
		{"directory with a body", Header{Name: "a", Mode: TypeDir, Size: 1}, "no content"},
		{"empty link", Header{Name: "a", Mode: TypeSymlink}, "invalid symbolic link"},
		{"long link", Header{Name: "a", Mode: TypeSymlink, Size: 4096}, "invalid symbolic link"},
		{"owner", Header{Name: "a", Mode: TypeFile, UID: 1<<32 - 1}, "out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewWriter(io.Discard)
			err := a.WriteHeader(&c.h)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want it to say %q", err, c.want)
			}
			if again := a.WriteHeader(&Header{Name: "fine", Mode: TypeDir}); again != err {
				t.Errorf("after an error: %v, want the first one again", again)
			}
		})
	}
	if err := (&Header{Name: "a", Mode: TypeFile, Size: 1 << 32}).Check(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v is not ErrTooLarge", err)
	}
	if err := (&Header{Name: long + "x", Mode: TypeFile, Size: MaxSize}).Check(); err != nil {
		t.Errorf("the longest name and the largest file: %v", err)
	}
}

func TestOrderErrors(t *testing.T) {
	dir := func(name string) Header { return Header{Name: name, Mode: TypeDir | 0o755} }
	file := func(name string, size int64) Header { return Header{Name: name, Mode: TypeFile, Size: size} }
	for _, c := range []struct {
		name    string
		entries []Header
		want    string
	}{
		{"below a file", []Header{file("a", 0), file("a/b", 0)},
			"below an earlier entry that is not a directory"},
		{"duplicate entry", []Header{file("a", 0), file("a", 0)}, "duplicate entry"},
		{"file over a directory", []Header{dir("a"), dir("b"), file("a", 0)},
			"earlier entry of this name is a directory"},
		{"body missing", []Header{file("a", 1), file("b", 0)}, "1 bytes shorter"},
		{"directory twice", []Header{dir("a"), dir("a"), file("a/b", 0)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewWriter(io.Discard)
			var err error
			for _, h := range c.entries {
				if err == nil {
					err = a.WriteHeader(&h)
				}
			}
			if c.want == "" && err != nil || c.want != "" &&
				(err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	a := NewWriter(io.Discard)
	h := file("a", 2)
	if err := a.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("123")); err == nil ||
		!strings.Contains(err.Error(), "longer than its header") {
		t.Errorf("too long a body: %v", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	var b bytes.Buffer
	write(t, &b, sample)
	whole := b.String()
	for i := range whole {
		if _, err := read(strings.NewReader(whole[:i])); err == nil {
			t.Fatalf("an archive truncated at byte %d of %d: no error", i, len(whole))
		}
	}
	edit := func(at int, with string) string { return whole[:at] + with + whole[at+len(with):] }
	linked := func(name, body string) string { // a name of a file with several
		r := record(name, TypeFile, len(body))
		return r[:38] + "00000002" + r[46:] + body + strings.Repeat("\x00", -len(body)&3)
	}
	for name, data := range map[string]string{
		"magic":               edit(0, "070702"),
		"digit":               edit(6, "x"),
		"name of no length":   edit(94, "00000000"),
		"name of 4 GiB":       edit(94, "FFFFFFFF"),
		"name without NUL":    edit(113, "x"),
		"more after it":       whole + "x",
		"not aligned":         whole + "\x00" + whole,
		"NUL in the name":     record("a\x00b", TypeFile, 0) + record(trailer, 0, 0),
		"trailer with body":   record(trailer, 0, 4) + "more" + whole,
		"trailer as a link":   record(trailer, TypeSymlink, 0),
		"body of a directory": record("a", TypeDir, 4) + "body" + record(trailer, 0, 0),
		"unknown type":        record("a", 0, 0) + record(trailer, 0, 0),
		"high bits of a mode": record("a", 1<<16|TypeFile, 0) + record(trailer, 0, 0),
		"empty link":          record("a", TypeSymlink, 0) + record(trailer, 0, 0),
		"NUL in a target":     record("a", TypeSymlink, 4) + "a\x00bc" + record(trailer, 0, 0),
		"no directory":        record("a/b", TypeFile, 0) + record(trailer, 0, 0),
		"below a link": record("a", TypeSymlink, 4) + "/dev" + record("a/b", TypeFile, 0) +
			record(trailer, 0, 0),
		"twice":                record("a", TypeFile, 0) + record("./a", TypeFile, 0) + record(trailer, 0, 0),
		"other console":        record("dev/console", TypeChar, 0) + record(trailer, 0, 0),
		"file over /dev":       record("dev", TypeFile, 0) + record(trailer, 0, 0),
		"dots":                 record("../a", TypeFile, 0) + record(trailer, 0, 0),
		"slash after a file":   record("a/", TypeFile, 0) + record(trailer, 0, 0),
		"root as a file":       record(".", TypeFile, 0) + record(trailer, 0, 0),
		"two bodies of a file": linked("a", "1") + linked("b", "2") + record(trailer, 0, 0),
		"two bodies, later":    linked("a", "") + linked("b", "1") + linked("c", "2") + record(trailer, 0, 0),
		"link to too much": record("a", TypeSymlink, MaxPath+1) + strings.Repeat("x", MaxPath+1) +
			record(trailer, 0, 0),
	} {
		if _, err := read(strings.NewReader(data)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// record is the header of an entry and its name, as another writer makes it.
func record(name string, mode uint32, size int) string {
	r := fmt.Sprintf("070701%08X%08X%032X%08X%032X%08X%08X%s\x00", 1, mode, 0, size, 0, len(name)+1, 0, name)
	return r + strings.Repeat("\x00", -len(r)&3)
}

// TestReaderNames reads names as other writers write them: with what the kernel's tree has before.
func TestReaderNames(t *testing.T) {
	got, err := read(strings.NewReader(record(".", TypeDir|0o755, 0) + record("./a/", TypeDir|0o755, 0) +
		record("/a/b", TypeFile|0o644, 0) + record("dev/null", TypeChar, 0) + record(trailer, 0, 0)))
	if err != nil || len(got) != 4 {
		t.Errorf("%+v (%v)", got, err)
	}
}

// TestContinue reads two ramdisks into one tree: the second has no entry for a directory of the first.
func TestContinue(t *testing.T) {
	r := NewReader(strings.NewReader(record("a", TypeDir, 0) + record(trailer, 0, 0)))
	for _, want := range []string{"a", "a/b"} {
		if h, err := r.Next(); err != nil || h.Name != want {
			t.Fatalf("%+v (%v), expected %s", h, err, want)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("%v at the end", err)
		}
		r.Continue(strings.NewReader(record("a/b", TypeFile, 0) + record(trailer, 0, 0)))
	}
	if _, err := r.Next(); err == nil || !strings.Contains(err.Error(), "duplicate entry") {
		t.Errorf("a file of an earlier ramdisk: %v", err)
	}
}

// TestReaderBound counts the names and the bytes of linked names that a reader keeps.
func TestReaderBound(t *testing.T) {
	u := newUnpacked()
	for i := range maxNames - len(u.known) {
		u.known[uint64(i)] = notDir
	}
	r := &Reader{r: bufio.NewReader(strings.NewReader(record("a", TypeDir, 0))), tree: u}
	if _, err := r.Next(); err == nil || !strings.Contains(err.Error(), "too many to follow") {
		t.Errorf("one name more than %d: %v", maxNames, err)
	}
	u = newUnpacked()
	u.linked = maxLinked
	h := &Header{Name: "a", Mode: TypeFile, Links: 2}
	if err := u.entry(h); err == nil || !strings.Contains(err.Error(), "too many to follow") {
		t.Errorf("a linked name beyond %d bytes: %v", maxLinked, err)
	}
}

// TestReaderPaddedNames reads names with more than one NUL at the end, as gen_init_cpio writes them.
func TestReaderPaddedNames(t *testing.T) {
	got, err := read(strings.NewReader(record("a\x00\x00\x00", TypeFile|0o644, 4) + "body" +
		record(trailer+"\x00", 0, 0)))
	if err != nil || len(got) != 1 || got[0].Name != "a" || got[0].body != "body" {
		t.Errorf("%+v (%v)", got, err)
	}
}

func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	write(f, &b, sample)
	f.Add(b.Bytes())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := read(bytes.NewReader(data))
		if err != nil {
			return
		}
		// What reads whole can be written again, unless it breaks the kernel's rules, and then reads the
		// same.
		var out bytes.Buffer
		w := NewWriter(&out)
		for _, e := range entries {
			if w.WriteHeader(&e.Header) != nil {
				return
			}
			if _, err := io.WriteString(w, e.body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := read(&out)
		if err != nil || len(again) != len(entries) {
			t.Fatalf("%d entries written, %d read: %v", len(entries), len(again), err)
		}
		for i := range again {
			if again[i].Name != entries[i].Name || again[i].Mode != entries[i].Mode ||
				again[i].body != entries[i].body {
				t.Errorf("entry %d: %+v, want %+v", i, again[i], entries[i])
			}
		}
	})
}
