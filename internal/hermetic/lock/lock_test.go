package lock

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// hash is a SHA-256 of the right form.
func hash(n int) string { return fmt.Sprintf("%064x", n+1) }

// small is a lock with every part, and as few packages as may be: every root, and one that two of them need.
func small() *Lock {
	at := time.Date(2026, 11, 22, 9, 15, 44, 0, time.UTC)
	l := &Lock{
		Indexes: []Index{
			{PartKernel, Debian, "trixie", "main", at, hash(1)},
			{PartKernel, Security, "trixie-security", "main", at, hash(2)},
			{PartToolchain, Debian, "trixie", "main", at, hash(1)},
		},
		Kernel: File{"linux-source-6.12", "6.12.117-1", "all", Security,
			"pool/main/l/linux/linux-source-6.12_6.12.117-1_all.deb", at, 153474904, hash(3)},
		Go: Go{Version: "1.26.8", Hosts: map[string]File{}},
	}
	for i, host := range Hosts {
		v := "v0.0.1-go1.26.8.linux-" + host
		l.Go.Hosts[host] = File{"golang.org/toolchain", v, host, GoProxy, "golang.org/toolchain/@v/" + v +
			".zip", time.Time{}, 7e7, hash(5 + i)}
	}
	packages := map[string]*Package{}
	add := func(name, arch, host, set string) *Package {
		key := name + " " + arch
		if set == Emulator {
			key += " " + set
		}
		if packages[key] == nil {
			packages[key] = &Package{
				File: File{name, "1.0-1", arch, Debian, "pool/main/" + name + "_1.0-1_" + arch + ".deb", at,
					1000, hash(100 + len(packages))},
				Sets: map[string][]string{},
			}
		}
		p := packages[key]
		if !slices.Contains(p.Sets[host], set) {
			p.Sets[host] = append(p.Sets[host], set)
		}
		return p
	}
	for _, set := range Sets {
		for _, host := range Hosts {
			for _, r := range Roots {
				if r.Set == set && (r.Host == "" || r.Host == host) {
					for _, name := range r.Packages {
						p := add(name, host, host, set)
						if name == "bash" {
							p.Needs = []string{"libtinfo6"}
							add("libtinfo6", host, host, set)
						}
						if name == "make" {
							p.Needs = []string{"data"}
							add("data", "all", host, set)
						}
					}
				}
			}
		}
	}
	for key, p := range packages {
		list := &l.Packages
		if strings.HasSuffix(key, " "+Emulator) {
			list = &l.Emulator
		}
		*list = append(*list, *p)
	}
	for _, list := range [][]Package{l.Packages, l.Emulator} {
		slices.SortFunc(list, func(a, b Package) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
		})
	}
	return l
}

// series are kernel sources of other series than the small lock's.
var series = []File{
	{"linux-source-7.3", "7.3.4-1~bpo13+1", "all", Debian, "pool/linux-source-7.3_7.3.4-1~bpo13+1_all.deb",
		time.Date(2026, 11, 29, 2, 15, 35, 0, time.UTC), 166780612, hash(10)},
	{"linux-source-7.10", "7.10.1-1", "all", Debian, "pool/linux-source-7.10_7.10.1-1_all.deb",
		time.Date(2027, 11, 29, 2, 15, 35, 0, time.UTC), 166780612, hash(11)},
}

func TestSeries(t *testing.T) {
	l := small()
	without := l.Bytes()
	l.Series = []File{series[1], series[0]}
	got, err := Read(bytes.NewReader(l.Bytes()))
	if err != nil || !slices.Equal(got.Series, series) {
		t.Fatalf("expected both, the older first, found %+v (%v)", got, err)
	}
	for name, want := range map[string]File{"": l.Kernel, "6.12": l.Kernel, "7.3": series[0],
		"7.10": series[1]} {
		if f, err := got.Source(name); err != nil || f != want {
			t.Errorf("series %q: found %s, %v", name, f.Name, err)
		}
	}
	if _, err := got.Source("7.1"); err == nil || !strings.Contains(err.Error(),
		`no kernel "7.1": expected one of 6.12, 7.3, 7.10`) {
		t.Errorf("found %v", err)
	}
	// Nobody downloads them who does not ask for them.
	if slices.ContainsFunc(got.Default(), func(f File) bool { return slices.Contains(series, f) }) {
		t.Error("other series are among the files that everybody needs")
	}
	var changes []string
	for _, c := range Diff(small(), got) {
		changes = append(changes, c.String())
	}
	if want := []string{"linux-source-7.10 (all): added, 7.10.1-1",
		"linux-source-7.3 (all): added, 7.3.4-1~bpo13+1"}; !slices.Equal(changes, want) {
		t.Errorf("expected %q, found %q", want, changes)
	}
	if l.Series = nil; !bytes.Equal(l.Bytes(), without) {
		t.Error("a lock without other series is written in another way than before there were any")
	}
}

func TestRoundTrip(t *testing.T) {
	want := small()
	got, err := Read(bytes.NewReader(want.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("expected what was written, found %+v", got)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("written twice, the lock differs")
	}
}

// TestRepositoryLock reads the lock that neb is built with, and asks of it what builds ask.
func TestRepositoryLock(t *testing.T) {
	f, err := os.Open("../../../neb.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	size := func(host string, sets ...string) int64 {
		files, err := l.Files(host, sets...)
		if err != nil {
			t.Fatal(err)
		}
		n := l.Kernel.Size
		for _, f := range files {
			n += f.Size
			if f.Arch != host && f.Arch != "all" {
				t.Errorf("host %s: %s is for %s", host, f.Name, f.Arch)
			}
		}
		return n
	}
	// What a first build fetches from Debian is part of what users wait for; the limits are the issue's.
	for _, tt := range []struct {
		what string
		size int64
		most int64
	}{
		{"x86_64", size("amd64", Base, GCCx86_64), 240e6},
		{"both", size("amd64", Base, GCCx86_64, GCCaarch64), 290e6},
	} {
		if tt.size > tt.most {
			t.Errorf("a first build of %s fetches %d bytes from Debian, expected at most %d", tt.what,
				tt.size, tt.most)
		}
	}
	if len(l.Series) == 0 {
		t.Error("expected a second kernel series")
	}
	for _, f := range l.All() {
		if f.Archive != GoProxy && !strings.HasPrefix(f.Path, "pool/") {
			t.Errorf("%s: path %s", f.Name, f.Path)
		}
	}
}

func TestFiles(t *testing.T) {
	l := small()
	for _, tt := range []struct {
		host  string
		sets  []string
		words string // names that have to be there, after "!" not
	}{
		{"amd64", []string{GCCx86_64}, "gcc !gcc-x86-64-linux-gnu !gcc-aarch64-linux-gnu !make"},
		{"amd64", []string{GCCaarch64}, "gcc-aarch64-linux-gnu !gcc"},
		{"arm64", []string{GCCx86_64}, "gcc-x86-64-linux-gnu !gcc"},
		{"arm64", []string{GCCaarch64}, "gcc !gcc-x86-64-linux-gnu"},
		{"amd64", []string{Base, GCCx86_64, Base}, "gcc make bash libtinfo6 data !meson"},
		{"arm64", []string{EROFS}, "erofs-utils !make"},
		{"arm64", nil, "!make !gcc"},
	} {
		files, err := l.Files(tt.host, tt.sets...)
		if err != nil {
			t.Errorf("%s %v: %v", tt.host, tt.sets, err)
			continue
		}
		count := map[string]int{}
		for _, f := range files {
			count[f.Name]++
		}
		for word := range strings.FieldsSeq(tt.words) {
			name, not := strings.CutPrefix(word, "!")
			if want := map[bool]int{true: 0, false: 1}[not]; count[name] != want {
				t.Errorf("%s %v: expected %s %d times, found %d", tt.host, tt.sets, name, want, count[name])
			}
		}
	}
	// The second compilers are not among what every build may need.
	gcc := "gcc-" + OtherGCCVersion + "-x86-64-linux-gnu"
	for name, others := range map[string]bool{
		gcc: true, "golang-" + OtherGoVersion + "-go": true, "gcc": false, "libtinfo6": false,
	} {
		named := func(f File) bool { return f.Name == name }
		all, normal := slices.ContainsFunc(l.All(), named), slices.ContainsFunc(l.Default(), named)
		if !all || normal == others {
			t.Errorf("%s: in All: %v, in Default: %v", name, all, normal)
		}
	}
	if _, err := l.Files("riscv64", Base); err == nil || !strings.Contains(err.Error(), `"riscv64"`) {
		t.Errorf("unknown host: %v", err)
	}
}

// TestBadLocks spoils a good lock in one way each. The error names the package and says what is wrong.
func TestBadLocks(t *testing.T) {
	l := small()
	l.Series = series[:1]
	good := string(l.Bytes())
	lines := strings.Split(good, "\n")
	// line finds the first line that has a text, counted from 1.
	line := func(text string) int {
		for i, l := range lines {
			if strings.Contains(l, text) {
				return i + 1
			}
		}
		t.Fatalf("the lock has no line with %s", text)
		return 0
	}
	// in replaces a text in the line that begins the package of a name.
	in := func(name, old, new string) string {
		n := line(`{"name":"`+name+`"`) - 1
		if !strings.Contains(lines[n], old) {
			t.Fatalf("line %q has no %s", lines[n], old)
		}
		changed := slices.Clone(lines)
		changed[n] = strings.Replace(changed[n], old, new, 1)
		return strings.Join(changed, "\n")
	}
	without := func(text string) string {
		return strings.Join(slices.Delete(slices.Clone(lines), line(text)-1, line(text)), "\n")
	}
	bash := line(`{"name":"bash"`)
	bashHash := lines[bash-1][strings.Index(lines[bash-1], `"sha256":"`)+10:][:64]
	for _, tt := range []struct {
		name, text string
		words      []string
	}{
		{"empty", "", []string{"not a lock"}},
		{"not JSON", "name,version\n", []string{"not a lock"}},
		{"another form", "[]\n", []string{"array"}},
		{"truncated", good[:len(good)/2], []string{"not a lock"}},
		{"no schema", strings.Replace(good, "\"schema\": 2,\n", "", 1), []string{`"schema"`}},
		{"newer schema", strings.Replace(good, `"schema": 2`, `"schema": 3`, 1), []string{"expected 2", "found 3"}},
		{"unknown field", strings.Replace(good, `"emulator":`, `"qemu":`, 1), []string{`unknown field "qemu"`}},
		{"unknown field of a package", in("bash", `"arch"`, `"optional":true,"arch"`), []string{`unknown field "optional"`}},
		{"unknown field of the kernel", strings.Replace(good, `"kernel": {`, `"kernel": {"x":1,`, 1), []string{`unknown field "x"`}},
		{"field twice", strings.Replace(good, `"schema": 2,`, "\"schema\": 2,\n\"schema\": 2,", 1), []string{"not in canonical form"}},
		{"field of a package twice", in("bash", `"arch"`, `"version":"0","arch"`), []string{"not in canonical form"}},
		{"field in other case", in("bash", `"arch"`, `"Arch"`), []string{"not in canonical form"}},
		{"part missing", without(`"kernel":`), []string{`"name" is missing`}},
		{"series of the default kernel", in("linux-source-7.3", "-7.3", "-6.12"),
			[]string{"other than linux-source-6.12"}},
		{"series of another package", in("linux-source-7.3", "linux-source-7.3", "linux-image-7.3"),
			[]string{"series", "found linux-image-7.3"}},
		{"series without a hash", in("linux-source-7.3", hash(10), ""), []string{"linux-source-7.3",
			"sha256"}},
		{"hash too short", in("bash", bashHash, bashHash[:63]),
			[]string{"bash", "64 lower-case hexadecimal digits", bashHash[:63]}},
		{"hash in capitals", in("bash", bashHash, strings.Repeat("A", 64)),
			[]string{"64 lower-case hexadecimal digits"}},
		{"hash with other signs", in("bash", bashHash, strings.Repeat("g", 64)),
			[]string{"64 lower-case hexadecimal digits"}},
		{"hash of another kind", in("bash", bashHash, "sha256:"+bashHash),
			[]string{"64 lower-case hexadecimal digits"}},
		{"no hash", in("bash", bashHash, ""), []string{"bash"}},
		{"size 0", in("bash", `"size":1000`, `"size":0`), []string{"size", "found 0"}},
		{"size below 0", in("bash", `"size":1000`, `"size":-1`), []string{"size", "found -1"}},
		{"size as text", in("bash", `"size":1000`, `"size":"1000"`), []string{"size", "int64", "string"}},
		{"no version", in("bash", `"version":"1.0-1"`, `"version":""`), []string{"bash", `"version"`, "empty"}},
		{"version with a blank", in("bash", `"version":"1.0-1"`, `"version":"1.0 1"`), []string{"blanks"}},
		{"path upwards", in("bash", `"path":"pool/`, `"path":"pool/../../`), []string{"plain path"}},
		{"path from the root", in("bash", `"path":"pool/`, `"path":"/pool/`), []string{"plain path"}},
		{"path with a query", in("bash", `"path":"pool/`, `"path":"pool?x/`), []string{"plain path"}},
		{"unknown archive", in("bash", `"archive":"debian"`, `"archive":"ubuntu"`), []string{"archive", `"ubuntu"`}},
		{"no snapshot", in("bash", `"snapshot":"2026-11-22T09:15:44Z",`, ``), []string{"snapshot"}},
		{"wrong snapshot", in("bash", `"snapshot":"2026-11-22T09:15:44Z"`, `"snapshot":"yesterday"`), []string{"parsing time", "yesterday"}},
		{"unknown set", in("bash", `["base"]`, `["basic"]`), []string{"sets", `"basic"`}},
		{"unknown host", in("bash", `{"amd64":["base"]}`, `{"i386":["base"]}`), []string{"sets", `"i386"`}},
		{"set of the wrong host", in("bash", `{"amd64":["base"]}`, `{"arm64":["base"]}`), []string{"bash", "amd64", "arm64"}},
		{"set twice", in("bash", `["base"]`, `["base","base"]`), []string{"not in canonical form"}},
		{"no sets", in("bash", `{"amd64":["base"]}`, `{}`), []string{"no sets"}},
		{"package twice", strings.Replace(good, lines[bash-1], lines[bash-1]+"\n"+lines[bash-1], 1),
			[]string{"not in canonical form"}},
		{"out of order", strings.Replace(strings.Replace(good, lines[bash-1]+"\n", "", 1),
			"\"packages\": [\n", "\"packages\": [\n"+lines[bash-1]+"\n", 1),
			[]string{"not in canonical form"}},
		{"root missing", without(`{"name":"bison"`), []string{"package bison is missing", "set base", "host amd64", "neb update toolchain"}},
		{"dependency missing", without(`{"name":"libtinfo6"`), []string{"package libtinfo6 is missing", "bash", "needs it"}},
		{"needs what is not in its set", in("bash", `"needs":["libtinfo6"]`, `"needs":["meson"]`), []string{"package meson is missing"}},
		{"Go for one host", without(`"v0.0.1-go1.26.8.linux-arm64"`), []string{"not a lock"}},
		{"Go of two versions", strings.Replace(good, `"v0.0.1-go1.26.8.linux-arm64"`,
			`"v0.0.1-go1.26.9.linux-arm64"`, 1), []string{"1.26.8", "1.26.9"}},
		{"Go that is none", strings.Replace(good, `"v0.0.1-go1.26.8.linux-arm64"`, `"v1"`, 1), []string{"found v1"}},
		{"wrong date of an index", strings.Replace(good, `"date":"2026`, `"date":"26`, 1), []string{"parsing time", "26-11"}},
		{"unknown part of an index", strings.Replace(good, `"part":"kernel"`, `"part":"firmware"`, 1), []string{"part", "firmware"}},
		{"blanks", strings.Replace(good, `{"name":"bash"`, `{ "name":"bash"`, 1), []string{"not in canonical form"}},
		{"line breaks of another system", strings.ReplaceAll(good, "\n", "\r\n"),
			[]string{"not in canonical form"}},
		{"something behind the end", good + "{}\n", []string{"not in canonical form"}},
		{"no line break at the end", strings.TrimSuffix(good, "\n"), []string{"not in canonical form"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.text))
			if err == nil {
				t.Fatal("expected an error, found none")
			}
			for _, w := range tt.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("expected the error to say %s, found: %v", w, err)
				}
			}
		})
	}
}

func TestDiff(t *testing.T) {
	before, after := small(), small()
	change := func(name, version string, n int) {
		for i, p := range after.Packages {
			if p.Name == name && p.Arch == "amd64" {
				after.Packages[i].Version, after.Packages[i].SHA256 = version, hash(n)
			}
		}
	}
	change("bash", "1.0-2", 900)
	change("bison", "1.0~rc1-1", 901)
	change("coreutils", "1.0-1", 902)
	after.Packages = slices.DeleteFunc(after.Packages,
		func(p Package) bool { return p.Name == "lz4" && p.Arch == "amd64" })
	before.Packages = slices.DeleteFunc(before.Packages,
		func(p Package) bool { return p.Name == "zstd" && p.Arch == "arm64" })
	for host, f := range after.Go.Hosts {
		f.Version = strings.Replace(f.Version, "1.26.8", "1.26.10", 1)
		after.Go.Hosts[host] = f
	}
	after.Kernel.Version = "6.12.99-1"
	var got []string
	for _, c := range Diff(before, after) {
		got = append(got, c.String())
	}
	want := []string{
		"bash (amd64): 1.0-1 -> 1.0-2",
		"bison (amd64): 1.0-1 -> 1.0~rc1-1 (DOWNGRADE)",
		"coreutils (amd64): 1.0-1: content changed",
		"golang.org/toolchain (amd64): v0.0.1-go1.26.8.linux-amd64 -> v0.0.1-go1.26.10.linux-amd64",
		"golang.org/toolchain (arm64): v0.0.1-go1.26.8.linux-arm64 -> v0.0.1-go1.26.10.linux-arm64",
		"linux-source-6.12 (all): 6.12.117-1 -> 6.12.99-1 (DOWNGRADE)",
		"lz4 (amd64): removed, was 1.0-1",
		"zstd (arm64): added, 1.0-1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("expected\n%s\nfound\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	if n := len(Diff(&Lock{}, small())); n != len(small().All()) {
		t.Errorf("from nothing: expected every file to be new, found %d", n)
	}
	if changes := Diff(small(), small()); len(changes) != 0 {
		t.Errorf("expected no changes, found %v", changes)
	}
}

func FuzzRead(f *testing.F) {
	good := small().Bytes()
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(bytes.Replace(good, []byte(`"size":1000`), []byte(`"size":1e3`), 1))
	f.Add([]byte(`{"schema": 1, "go": [{"name":"x"}], "packages": [`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(bytes.NewReader(data))
		if err != nil {
			return
		}
		if !bytes.Equal(l.Bytes(), data) {
			t.Error("a lock was taken that would not be written like that")
		}
	})
}
