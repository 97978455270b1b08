package resolve

import (
	"bytes"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
)

// now is when the tests happen.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// pkg is a stanza of a Packages index; more are further lines of it.
func pkg(name, version, arch string, more ...string) string {
	return mirror.Stanza(name, version, arch, []byte(name+version+arch), more...)
}

const otherGo = "golang-" + lock.OtherGoVersion

// roots are stanzas of all packages that a host's sets begin with, but for those that are named and the other
// Go.
func roots(host string, but ...string) string {
	var b strings.Builder
	seen := map[string]bool{}
	for _, r := range lock.Roots {
		for _, name := range r.Packages {
			if (r.Host == "" || r.Host == host) && !seen[name] && name != otherGo+"-go" &&
				!slices.Contains(but, name) {
				b.WriteString(pkg(name, "1.0-1", host))
			}
			seen[name] = true
		}
	}
	return b.String()
}

// backports has QEMU and the other Go.
func backports(host string) string {
	var b strings.Builder
	b.WriteString(strings.Replace(pkg(otherGo+"-go", "1.0-1~bpo13+1", host), "Package:",
		"Source: "+otherGo+"\nPackage:", 1))
	for _, name := range []string{"qemu-system-arm", "qemu-system-x86"} {
		b.WriteString(strings.Replace(pkg(name, "1:11.1-1~bpo13+1", host), "Package:",
			"Source: qemu\nDepends: libc6\nPackage:", 1))
	}
	return b.String()
}

// TestMain keeps the go command from asking a proxy for toolchains.
func TestMain(m *testing.M) {
	os.Setenv("GOPROXY", "off")
	os.Exit(m.Run())
}

// world is a full set of archives whose toolchain resolves.
type world struct {
	*mirror.Archives
	debian, security *openpgp.Entity
	suites           map[place]*mirror.Suite
	options          Options
	before           *lock.Lock
}

func newWorld(t *testing.T) *world {
	w := &world{Archives: mirror.NewArchives(t), debian: mirror.Key(t, "debian", now),
		security: mirror.Key(t, "security", now)}
	kernel := pkg("linux-source-6.12", "6.12.107-1", "all") + pkg("linux-source-6.12", "6.12.99-1", "all")
	w.suites = map[place]*mirror.Suite{
		mainSuite: {Archive: mainSuite.archive, Name: mainSuite.suite, Signed: now.Add(-time.Hour),
			Date: now.Add(-100 * time.Hour), Key: w.debian,
			Indexes: map[string]string{
				"binary-amd64/Packages": roots("amd64") + pkg("libc6", "1.0-1", "amd64") + kernel,
				"binary-arm64/Packages": roots("arm64") + pkg("libc6", "1.0-1", "arm64") + kernel,
			}},
		// QEMU in a newer version than that of the main suite, and a library that must not be taken from
		// here.
		backportsSuite: {Archive: backportsSuite.archive, Name: backportsSuite.suite,
			Signed: now.Add(-time.Hour), Date: now.Add(-20 * time.Hour),
			Until: now.Add(80 * time.Hour), Key: w.debian, Indexes: map[string]string{
				"binary-amd64/Packages": backports("amd64") + pkg("libc6", "9.0-1", "amd64") +
					pkg("linux-source-7.3", "7.3.4-1~bpo13+1", "all") + pkg("linux-source-7.2",
					"7.2.12-1~bpo13+1", "all") +
					pkg("linux-source-7.2", "7.2.9-1~bpo13+1", "all") + pkg("linux-source", "7.3.4-1~bpo13+1",
					"all"),
				"binary-arm64/Packages": backports("arm64") + pkg("libc6", "9.0-1", "arm64"),
			}},
		updatesSuite: {Archive: updatesSuite.archive, Name: updatesSuite.suite, Signed: now.Add(-time.Hour),
			Date: now.Add(-50 * time.Hour), Until: now.Add(50 * time.Hour),
			Key: w.debian, Indexes: map[string]string{
				"binary-amd64/Packages": "",
			}},
		securitySuite: {Archive: securitySuite.archive, Name: securitySuite.suite,
			Signed: now.Add(-time.Hour), Date: now.Add(-10 * time.Hour), Until: now.Add(90 * time.Hour),
			Key: w.security, Indexes: map[string]string{
				"binary-amd64/Packages": pkg("linux-source-6.12", "6.12.117-1", "all") +
					pkg("bash", "1.0-1+deb13u1", "amd64"),
				"binary-arm64/Packages": pkg("linux-source-6.12", "6.12.117-1", "all"),
			}},
	}
	w.options = Options{
		Mirrors: fetch.Mirrors{Archives: map[string][]string{lock.Debian: {w.URL + "/debian"},
			lock.Security: {w.URL + "/debian-security"}}},
		Now:  now,
		Keys: map[string]openpgp.EntityList{lock.Debian: {w.debian}, lock.Security: {w.security}},
	}
	w.before = &lock.Lock{Go: lock.Go{Version: "1.26.8", Hosts: map[string]lock.File{}}}
	for _, host := range lock.Hosts {
		v := toolchainPrefix + "1.26.8.linux-" + host
		w.before.Go.Hosts[host] = lock.File{Name: toolchainModule, Version: v, Arch: host,
			Archive: lock.GoProxy, Path: toolchainModule + "/@v/" + v +
				".zip", Size: 1, SHA256: mirror.Hash([]byte(host))}
	}
	return w
}

// update publishes everything and resolves the parts.
func (w *world) update(t *testing.T, parts ...string) (*lock.Lock, error) {
	t.Helper()
	for _, s := range w.suites {
		w.Publish(t, *s)
	}
	return Update(t.Context(), w.before, parts, w.options)
}

func wants(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("expected an error that says %q, found none", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("expected the error to say %q, found: %v", w, err)
		}
	}
}

// packageOf returns the package of the toolchain with a name for a host.
func packageOf(l *lock.Lock, host, name string) (lock.Package, bool) {
	i := slices.IndexFunc(l.Packages, func(p lock.Package) bool {
		return p.Name == name && p.Sets[host] != nil
	})
	if i < 0 {
		return lock.Package{}, false
	}
	return l.Packages[i], true
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	l, err := w.update(t, lock.Parts...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Read(bytes.NewReader(l.Bytes())); err != nil {
		t.Errorf("the new lock cannot be read: %v", err)
	}
	if l.Kernel.Version != "6.12.117-1" || l.Kernel.Archive != lock.Security {
		t.Errorf("expected the newest kernel, 6.12.117-1 of the security archive, found %s of %s",
			l.Kernel.Version, l.Kernel.Archive)
	}
	if bash, _ := packageOf(l, "amd64", "bash"); bash.Version != "1.0-1" || bash.Archive != lock.Debian {
		t.Errorf("expected bash from the main archive, found %s of %s", bash.Version, bash.Archive)
	}
	if p, _ := packageOf(l, "arm64", otherGo+"-go"); !slices.Equal(p.Sets["arm64"], []string{lock.OtherGo}) {
		t.Errorf("expected the other Go from backports, found %+v", p)
	}
	var emulator []string
	for _, p := range l.Emulator {
		emulator = append(emulator, p.Name+" "+p.Arch+" "+p.Version)
	}
	if want := []string{
		"libc6 amd64 1.0-1", "libc6 arm64 1.0-1",
		"qemu-system-arm amd64 1:11.1-1~bpo13+1", "qemu-system-arm arm64 1:11.1-1~bpo13+1",
		"qemu-system-x86 amd64 1:11.1-1~bpo13+1", "qemu-system-x86 arm64 1:11.1-1~bpo13+1",
	}; !slices.Equal(emulator, want) {
		t.Errorf("expected QEMU alone from backports, %q, found %q", want, emulator)
	}
	var indexes []string
	for _, x := range l.Indexes {
		indexes = append(indexes, x.Part+" "+x.Suite)
		inRelease := w.Get("/" + x.Archive + "/dists/" + x.Suite + "/InRelease")
		if x.SHA256 != mirror.Hash(inRelease) || !x.Date.Equal(w.suites[place{x.Archive, x.Suite}].Date) {
			t.Errorf("index %s: expected date and hash of its InRelease, found %v and %s", x.Suite, x.Date,
				x.SHA256)
		}
	}
	if want := []string{"kernel trixie", "kernel trixie-updates", "kernel trixie-security",
		"toolchain trixie", "toolchain trixie-backports", "toolchain trixie-security", "emulator trixie",
		"emulator trixie-backports", "emulator trixie-security"}; !slices.Equal(indexes, want) {
		t.Errorf("expected the indexes %q, found %q", want, indexes)
	}
	again, err := w.update(t, lock.Parts...)
	if err != nil || len(lock.Diff(l, again)) != 0 {
		t.Errorf("resolved twice from the same indexes, the locks differ: %v (%v)", lock.Diff(l, again), err)
	}
}

// TestPartialUpdate changes everything in the archives and updates one part: the others stay as they were.
func TestPartialUpdate(t *testing.T) {
	for _, part := range lock.Parts {
		t.Run(part, func(t *testing.T) {
			w := newWorld(t)
			w.options.Series = []string{Newest}
			before, err := w.update(t, lock.Parts...)
			if err != nil {
				t.Fatal(err)
			}
			w.before, w.options.Series = before, nil
			for _, s := range w.suites {
				s.Date = s.Date.Add(time.Hour)
				for name, text := range s.Indexes {
					s.Indexes[name] = strings.NewReplacer("1.0-1", "1.0-2", "6.12.117", "6.12.118", "7.3.4",
						"7.3.5", "11.1-1",
						"11.2-1").Replace(text)
				}
			}
			after, err := w.update(t, part)
			if err != nil {
				t.Fatal(err)
			}
			changed := map[string]bool{
				lock.PartKernel: after.Kernel != before.Kernel,
				lock.PartSeries: !slices.Equal(after.Series, before.Series),
				lock.PartEmulator: !slices.EqualFunc(after.Emulator, before.Emulator,
					func(a, b lock.Package) bool { return a.File == b.File }),
				lock.PartToolchain: !slices.EqualFunc(after.Packages, before.Packages,
					func(a, b lock.Package) bool { return a.File == b.File }),
			}
			for p, c := range changed {
				if c != (p == part) {
					t.Errorf("part %s: changed is %v", p, c)
				}
			}
			for i, x := range after.Indexes {
				if same := x == before.Indexes[i]; same == (x.Part == part) {
					t.Errorf("index %s of part %s: same is %v", x.Suite, x.Part, same)
				}
			}
		})
	}
}

// TestSeries locks kernels beside the default one, and resolves them again when newer ones are there.
func TestSeries(t *testing.T) {
	w := newWorld(t)
	first, err := w.update(t, lock.Parts...)
	if err != nil || len(first.Series) != 0 {
		t.Fatalf("expected no other series, found %v, %v", first.Series, err)
	}
	w.before = first
	for _, step := range []struct {
		series    []string
		old, new  string // replaced in backports
		want      string
		said, err string
	}{
		{series: []string{"8.0"}, want: "", err: "linux-source-8.0 not found in any suite: found " +
			"linux-source-6.12, linux-source-7.2"},
		{series: []string{Newest, "7.3"}, want: "7.3.4-1~bpo13+1"},
		{series: []string{"7.2", "6.12"}, want: "7.2.12-1~bpo13+1"},
		{series: []string{Newest, "7.2"}, want: "7.2.12-1~bpo13+1 7.3.4-1~bpo13+1"},
		{old: "7.2.12", new: "7.2.13", want: "7.2.13-1~bpo13+1 7.3.4-1~bpo13+1"},
		{old: "linux-source-7.3", new: "linux-source-7.4", want: "7.2.13-1~bpo13+1 7.3.4-1~bpo13+1",
			said: "keeping linux-source-7.3 7.3.4-1~bpo13+1"},
		{series: []string{"6.12"}, want: ""},
	} {
		index := w.suites[backportsSuite].Indexes
		index["binary-amd64/Packages"] = strings.ReplaceAll(index["binary-amd64/Packages"], step.old,
			step.new)
		var said strings.Builder
		w.options.Series = step.series
		w.options.Progress = func(e progress.Event) { said.WriteString(e.Note) }
		l, err := w.update(t, lock.PartSeries)
		if step.err != "" {
			wants(t, err, step.err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Read(bytes.NewReader(l.Bytes())); err != nil {
			t.Errorf("the new lock cannot be read: %v", err)
		}
		var got []string
		for _, f := range l.Series {
			got = append(got, f.Version)
		}
		if strings.Join(got, " ") != step.want || l.Kernel != first.Kernel {
			t.Errorf("%q: expected %q and the same default kernel, found %q and %s", step.series, step.want,
				got, l.Kernel.Version)
		}
		if !strings.Contains(said.String(), step.said) {
			t.Errorf("expected to be told %q, found %q", step.said, &said)
		}
		w.before = l
	}
}

// TestReplace has the mirrors drop some files of a lock: newer versions replace these, and those of the same
// source packages, with what they need; all else stays, though it is newer in the indexes, too.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	bash := "/b/bash/bash_"
	for _, host := range lock.Hosts {
		w.suites[mainSuite].Indexes["binary-"+host+"/Packages"] = roots(host, "bash", "make") +
			strings.Replace(pkg("libc6", "1.0-1", host), "main/", "main/g/glibc/", 1) + pkg("make", "1.0-1",
			host, "Depends: libc6") +
			strings.Replace(pkg("bash", "1.0-1", host, "Depends: libc6"), "/bash_", bash, 1) +
			strings.Replace(pkg("bash-data", "1.0-1", host), "/bash-data_", "/b/bash/bash-data_", 1) +
			strings.Replace(pkg("linux-source-6.12", "6.12.107-1", "all"), "main/", "main/l/linux/", 1)
	}
	w.options.Series = []string{Newest}
	backports := w.suites[backportsSuite].Indexes
	backports["binary-amd64/Packages"] = strings.ReplaceAll(backports["binary-amd64/Packages"],
		"main/linux-source", "main/l/linux/linux-source")
	delete(w.suites[securitySuite].Indexes, "binary-arm64/Packages")
	w.suites[securitySuite].Indexes = map[string]string{"binary-amd64/Packages": "",
		"binary-arm64/Packages": ""}
	before, err := w.update(t, lock.Parts...)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.NewReplacer("1.0-1", "1.0-2", "6.12.107", "6.12.108", "Depends: libc6",
		"Depends: libc6, new")
	for _, host := range lock.Hosts {
		index := &w.suites[mainSuite].Indexes
		(*index)["binary-"+host+"/Packages"] = newer.Replace((*index)["binary-"+host+"/Packages"]) +
			pkg("new", "3", host)
	}
	backports["binary-amd64/Packages"] = strings.ReplaceAll(backports["binary-amd64/Packages"], "7.3.4",
		"7.3.5")
	w.before, w.options.Series = before, nil
	replace := func(gone ...lock.File) []string {
		t.Helper()
		for _, s := range w.suites {
			w.Publish(t, *s)
		}
		after, err := Replace(t.Context(), before, gone, w.options)
		if err != nil {
			return []string{err.Error()}
		}
		if _, err := lock.Read(bytes.NewReader(after.Bytes())); err != nil {
			t.Errorf("the new lock cannot be read: %v", err)
		}
		var changes []string
		for _, c := range lock.Diff(before, after) {
			changes = append(changes, c.String())
		}
		return changes
	}
	file, _ := packageOf(before, "amd64", "bash")
	if got, want := replace(file.File), []string{
		"bash (amd64): 1.0-1 -> 1.0-2", "bash (arm64): 1.0-1 -> 1.0-2", "new (amd64): added, 3",
		"new (arm64): added, 3",
	}; !slices.Equal(got, want) {
		t.Errorf("bash is gone: expected %q, found %q", want, got)
	}
	if got, want := replace(before.Kernel), []string{"linux-source-6.12 (all): 6.12.107-1 -> 6.12.108-1",
		"linux-source-7.3 (all): 7.3.4-1~bpo13+1 -> 7.3.5-1~bpo13+1"}; !slices.Equal(got, want) {
		t.Errorf("the kernel is gone: expected %q, found %q", want, got)
	}
	if got := replace(before.Go.Hosts["amd64"]); len(got) != 0 {
		t.Errorf("Go is gone: expected no changes, found %q", got)
	}
	index := w.suites[mainSuite].Indexes
	index["binary-amd64/Packages"] = strings.ReplaceAll(index["binary-amd64/Packages"], "libc6, new",
		"libc6 (>= 1.0-2)")
	if got, want := replace(file.File), []string{
		"bash (amd64): 1.0-1 -> 1.0-2", "bash (arm64): 1.0-1 -> 1.0-2", "libc6 (amd64): 1.0-1 -> 1.0-2",
		"libc6 (arm64): 1.0-1 -> 1.0-2", "new (arm64): added, 3",
	}; !slices.Equal(got, want) {
		t.Errorf("a version that needs a newer one of what is there: expected %q, found %q", want, got)
	}
	w.suites[mainSuite].Key = mirror.Key(t, "stranger", now)
	if got := replace(file.File); len(got) != 1 || !strings.Contains(got[0], "invalid OpenPGP signature") {
		t.Errorf("index by an unknown key: found %q", got)
	}
}

// TestRefused serves indexes that must not be taken.
func TestRefused(t *testing.T) {
	const inRelease = "/debian-security/dists/trixie-security/InRelease"
	for _, tt := range []struct {
		name  string
		spoil func(*testing.T, *world)   // before publishing
		after func(*world, func(string)) // after it, by path
		words []string
	}{
		{"expired", func(_ *testing.T, w *world) { w.suites[securitySuite].Until = now.Add(-time.Second) },
			nil,
			[]string{"expired", "trixie-security", "2026-11-23T11:59:59Z"}},
		{"older than the lock", func(_ *testing.T, w *world) {
			w.before.Indexes = []lock.Index{{Part: lock.PartKernel, Archive: lock.Security,
				Suite: "trixie-security", Component: "main", Date: now.Add(-9 * time.Hour),
				SHA256: strings.Repeat("0", 64)}}
		}, nil, []string{"older than the lock", "trixie-security", "2026-11-23T02:00:00Z",
			"2026-11-23T03:00:00Z"}},
		{"unknown key", func(t *testing.T, w *world) {
			w.suites[securitySuite].Key = mirror.Key(t, "stranger", now)
		},
			nil,
			[]string{"invalid OpenPGP signature", "resolve/keys"}},
		{"key of the other archive", func(_ *testing.T, w *world) { w.suites[securitySuite].Key = w.debian },
			nil,
			[]string{"invalid OpenPGP signature"}},
		{"changed after signing", nil, func(w *world, _ func(string)) {
			w.Change(inRelease, func(b []byte) []byte {
				return bytes.Replace(b, []byte("SHA256:\n"),
					[]byte("SHA256:\n "+strings.Repeat("0", 64)+" 1 main/x\n"), 1)
			})
		}, []string{"invalid OpenPGP signature"}},
		{"not signed", nil, func(w *world, _ func(string)) {
			w.Change(inRelease, func([]byte) []byte {
				return []byte("Origin: Debian\nCodename: trixie-security\n")
			})
		}, []string{"no OpenPGP signature"}},
		{"more behind the signature", nil, func(w *world, _ func(string)) {
			w.Change(inRelease, func(b []byte) []byte { return append(b, "\nPackage: evil\n"...) })
		}, []string{"trailing data after the signature"}},
		{"another suite under this name",
			func(_ *testing.T, w *world) { w.suites[securitySuite].Codename = "bookworm-security" }, nil,
			[]string{"expected codename trixie-security", `"bookworm-security"`}},
		{"no date", nil, func(w *world, sign func(string)) { sign("Codename: trixie-security\n") },
			[]string{"Date"}},
		{"no such suite", nil, func(w *world, _ func(string)) {
			w.Change(inRelease, func([]byte) []byte { return nil })
		}, []string{"no mirror has a valid InRelease file", "trixie-security", "not found"}},
		{"index changed", nil, func(w *world, _ func(string)) {
			w.Change("/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz",
				func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, []string{"binary-amd64/Packages.xz", "wrong content", "SHA-256"}},
		{"index missing", nil, func(w *world, _ func(string)) {
			w.Change("/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz",
				func([]byte) []byte { return nil })
		}, []string{"binary-amd64/Packages.xz", "not found"}},
		{"index not vouched for", func(_ *testing.T,
			w *world) {
			delete(w.suites[securitySuite].Indexes, "binary-amd64/Packages")
		}, nil,
			[]string{"no entry for main/binary-amd64/Packages.xz"}},
		{"no kernel anywhere", func(_ *testing.T, w *world) {
			for _, s := range w.suites {
				for name, text := range s.Indexes {
					s.Indexes[name] = strings.ReplaceAll(text, "linux-source-6.12", "linux-source-6.13")
				}
			}
		}, nil, []string{"package linux-source-6.12 not found"}},
		{"nonsense in an index", func(_ *testing.T,
			w *world) {
			w.suites[mainSuite].Indexes["binary-amd64/Packages"] = "no field\n"
		}, nil,
			[]string{"binary-amd64/Packages.xz", "line 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.spoil != nil {
				tt.spoil(t, w)
			}
			for _, s := range w.suites {
				w.Publish(t, *s)
			}
			if tt.after != nil {
				tt.after(w, func(text string) {
					w.Put(inRelease, mirror.Sign(t, w.security, now, []byte(text)))
				})
			}
			_, err := Update(t.Context(), w.before, []string{lock.PartKernel}, w.options)
			wants(t, err, append(tt.words, "update kernel")...)
		})
	}
}

// TestMixAndMatch serves yesterday's list of packages, with its valid signature of yesterday, under today's
// signed Release file, at every path that is asked.
func TestMixAndMatch(t *testing.T) {
	w, yesterday := newWorld(t), mirror.NewArchives(t)
	old := *w.suites[securitySuite]
	old.Date = old.Date.Add(-24 * time.Hour)
	old.Indexes = map[string]string{"binary-amd64/Packages": pkg("linux-source-6.12", "6.12.1-1", "all")}
	yesterday.Publish(t, old)
	for _, s := range w.suites {
		w.Publish(t, *s)
	}
	const list = "/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz"
	w.Put(list, yesterday.Get(list))
	_, err := Update(t.Context(), w.before, []string{lock.PartKernel}, w.options)
	wants(t, err, "binary-amd64/Packages.xz of debian-security trixie-security", "wrong content", w.URL)
}

// TestMirrorPassedOver has a first mirror whose index is refused: the second one's is taken.
func TestMirrorPassedOver(t *testing.T) {
	w, stale := newWorld(t), newWorld(t)
	for _, s := range w.suites {
		w.Publish(t, *s)
	}
	for at, s := range stale.suites {
		s.Key = w.suites[at].Key
		s.Until = now.Add(-time.Hour)
		stale.Publish(t, *s)
	}
	for name, urls := range w.options.Mirrors.Archives {
		w.options.Mirrors.Archives[name] = append([]string{stale.URL + "/" + name}, urls...)
	}
	l, err := Update(t.Context(), w.before, []string{lock.PartKernel}, w.options)
	if err != nil || l.Kernel.Version != "6.12.117-1" {
		t.Errorf("expected the second mirror's kernel, found %q (%v)", l.Kernel.Version, err)
	}
}

// TestSnapshotsOnly is a machine without mirrors of Debian: indexes come from the snapshot of now.
func TestSnapshotsOnly(t *testing.T) {
	w := newWorld(t)
	for at, s := range w.suites {
		w.Publish(t, *s)
		w.Move("/"+at.archive+"/", "/archive/"+at.archive+"/20261123T120000Z/")
	}
	w.options.Mirrors = fetch.Mirrors{Snapshots: w.URL + "/archive"}
	l, err := Update(t.Context(), w.before, []string{lock.PartKernel}, w.options)
	if err != nil || l.Kernel.Version != "6.12.117-1" {
		t.Errorf("found %q (%v)", l.Kernel.Version, err)
	}
}

// TestClosure resolves dependencies of every kind that Debian has.
func TestClosure(t *testing.T) {
	for _, tt := range []struct {
		name  string
		index string // stanzas beside the roots other than bash
		bash  string // the fields of bash
		want  string // what bash needs
		words []string
	}{
		{"nothing", "", "", "", nil},
		{"chain", pkg("a", "1", "amd64", "Depends: b") + pkg("b", "1", "all"), "Depends: a", "a", nil},
		{"before and while", pkg("a", "1", "amd64") + pkg("b", "1", "all"), "Pre-Depends: a\nDepends: b",
			"a b", nil},
		{"not what is recommended", "", "Recommends: a\nSuggests: b", "", nil},
		{"circle", pkg("a", "1", "amd64", "Depends: bash"), "Depends: a", "a", nil},
		{"version", pkg("a", "1", "amd64") + pkg("a", "3", "amd64"), "Depends: a (<< 2)", "a", nil},
		{"newest", pkg("a", "1", "amd64") + pkg("a", "3", "amd64") + pkg("a", "2", "amd64"),
			"Depends: a (>= 2)", "a", nil},
		{"first alternative", pkg("a", "1", "amd64") + pkg("b", "1", "amd64"), "Depends: b | a", "b", nil},
		{"second alternative", pkg("b", "1", "amd64"), "Depends: a | b", "b", nil},
		{"alternative that is chosen already", pkg("a", "1", "amd64"), "Depends: a | dash", "dash", nil},
		{"provided", pkg("z", "1", "amd64", "Provides: virtual") +
			pkg("y", "1", "amd64", "Provides: virtual"), "Depends: virtual", "y", nil},
		{"provided by what is chosen already", pkg("y", "1", "amd64", "Provides: virtual") +
			pkg("z", "1", "amd64", "Provides: virtual"), "Depends: z, virtual", "z", nil},
		{"provided with a version", pkg("y", "1", "amd64", "Provides: v") +
			pkg("z", "1", "amd64", "Provides: v (= 2.0)"), "Depends: v (>= 1.5)", "z", nil},
		{"any architecture", pkg("a", "1", "amd64"), "Depends: a:any", "a", nil},
		{"this architecture", pkg("a", "1", "amd64"), "Depends: a:amd64", "a", nil},
		{"missing", "", "Depends: nowhere (>= 2) | never", "",
			[]string{"bash 1.0-1 depends on nowhere (>= 2) | never", "not found in any suite"}},
		{"version missing", pkg("a", "1", "amd64"), "Depends: a (>= 2)", "", []string{"a (>= 2)"}},
		{"another architecture", pkg("a", "1", "amd64"), "Depends: a:i386", "", []string{"a:i386"}},
		{"unversioned provision", pkg("y", "1", "amd64", "Provides: v"), "Depends: v (>= 1)", "",
			[]string{"v (>= 1)"}},
		{"two versions wanted", pkg("a", "1", "amd64") + pkg("a", "2", "amd64") +
			pkg("b", "1", "amd64", "Depends: a (<< 2)"), "Depends: a (>= 2), b", "",
			[]string{"b 1 depends on a (<< 2)", "choice of a 2"}},
		{"conflict", pkg("a", "1", "amd64", "Conflicts: dash"), "Depends: a", "",
			[]string{"a 1 conflicts with dash", "dash 1.0-1"}},
		{"broken version", pkg("a", "1", "amd64", "Breaks: dash (<< 2)"), "Depends: a", "",
			[]string{"conflicts with dash (<< 2)"}},
		{"broken version that is not there", pkg("a", "1", "amd64", "Breaks: dash (<< 1)"), "Depends: a", "a",
			nil},
		{"conflict with one's own name", pkg("a", "1", "amd64", "Provides: shell", "Conflicts: shell"),
			"Depends: a", "a", nil},
		{"nonsense", "", "Depends: a b c", "", []string{"bash", "Depends"}},
		{"left out on purpose", pkg("libgcc-14-dev", "1", "amd64", "Depends: libasan8 (>= 14), a") +
			pkg("a", "1", "amd64"), "Depends: libgcc-14-dev", "libgcc-14-dev", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.suites[securitySuite].Indexes["binary-amd64/Packages"] = ""
			w.suites[mainSuite].Indexes["binary-amd64/Packages"] = roots("amd64", "bash") +
				pkg("bash", "1.0-1", "amd64", strings.Split(tt.bash, "\n")...) + tt.index
			l, err := w.update(t, lock.PartToolchain)
			if tt.words != nil {
				wants(t, err, tt.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			bash, _ := packageOf(l, "amd64", "bash")
			if got := strings.Join(bash.Needs, " "); got != tt.want {
				t.Errorf("expected bash to need %q, found %q", tt.want, got)
			}
			for _, name := range bash.Needs {
				if p, ok := packageOf(l, "amd64", name); !ok || !p.In("amd64", lock.Base) {
					t.Errorf("%s is not in the set that needs it", name)
				}
			}
			if tt.name == "newest" {
				if a, _ := packageOf(l, "amd64", "a"); a.Version != "3" {
					t.Errorf("expected the newest version of a, found %s", a.Version)
				}
			}
		})
	}
	t.Run("security where the main archive has none", func(t *testing.T) {
		w := newWorld(t)
		w.suites[mainSuite].Indexes["binary-amd64/Packages"] = roots("amd64", "bash")
		l, err := w.update(t, lock.PartToolchain)
		if err != nil {
			t.Fatal(err)
		}
		if bash, _ := packageOf(l, "amd64", "bash"); bash.Version != "1.0-1+deb13u1" ||
			bash.Archive != lock.Security {
			t.Errorf("found %s of %s", bash.Version, bash.Archive)
		}
	})
	t.Run("root missing", func(t *testing.T) {
		w := newWorld(t)
		w.suites[mainSuite].Indexes["binary-arm64/Packages"] = roots("arm64", "bison")
		_, err := w.update(t, lock.PartToolchain)
		wants(t, err, "host arm64", "set base", "package bison not found")
	})
	t.Run("hosts that disagree", func(t *testing.T) {
		w := newWorld(t)
		for _, host := range lock.Hosts {
			w.suites[mainSuite].Indexes["binary-"+host+"/Packages"] = roots(host, "bash") +
				pkg("bash", "1.0-1", host, "Depends: a") +
				strings.Replace(pkg("a", "1", "all"), "pool/", "pool/"+host+"/", 1) + "\n"
		}
		i := strings.Index(w.suites[mainSuite].Indexes["binary-arm64/Packages"], "Package: a\n")
		text := w.suites[mainSuite].Indexes["binary-arm64/Packages"]
		w.suites[mainSuite].Indexes["binary-arm64/Packages"] = text[:i] +
			strings.Replace(text[i:], "SHA256: ", "SHA256: 0", 1)
		_, err := w.update(t, lock.PartToolchain)
		wants(t, err, "a: the indexes of the hosts differ")
	})
}

func TestKeyring(t *testing.T) {
	for archive, want := range map[string][]string{
		lock.Debian: {"04b54c3cdca79751b16bc6b5225629df75b188bd",
			"41587f7db8c774bccf131416762f67a0b2c39de4"},
		lock.Security: {"5e04a1e3223a19a20706e20f9904613d4cce68c6"},
	} {
		keys, err := Keyring(archive)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, hex.EncodeToString(k.PrimaryKey.Fingerprint))
			if k.PrivateKey != nil {
				t.Errorf("%s: a private key", archive)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: expected the keys %v, found %v", archive, want, got)
		}
	}
	if _, err := Keyring("ubuntu"); err == nil {
		t.Error("expected an error for an archive without keys")
	}
}

func TestNewestPatch(t *testing.T) {
	both := func(versions ...string) []string {
		var all []string
		for _, v := range versions {
			all = append(all, toolchainPrefix+v+".linux-amd64", toolchainPrefix+v+".linux-arm64",
				toolchainPrefix+v+".windows-amd64")
		}
		return all
	}
	for _, tt := range []struct {
		locked  string
		offered []string
		want    string
	}{
		{"1.26.8", nil, "1.26.8"},
		{"1.26.8", both("1.26.7", "1.26.9", "1.26.10", "1.26.8"), "1.26.10"},
		{"1.26.8", both("1.27.0", "1.25.20", "1.26.7"), "1.26.8"},
		{"1.26.8", append(both("1.26.9"), toolchainPrefix+"1.26.10.linux-amd64"), "1.26.9"},
		{"1.26.0", both("1.26rc3", "1.26.1-vendor", "1.26.1"), "1.26.1"},
		{"1.26.8", []string{"v0.0.1", "nonsense", ""}, "1.26.8"},
	} {
		if got := newestPatch(tt.locked, tt.offered); got != tt.want {
			t.Errorf("%s of %d: expected %s, found %s", tt.locked, len(tt.offered), tt.want, got)
		}
	}
}

// TestGoStays: without a list of toolchains the locked version stays, and the user is told.
func TestGoStays(t *testing.T) {
	w := newWorld(t)
	var notes []string
	w.options.Progress = func(e progress.Event) {
		if e.Note != "" {
			notes = append(notes, e.Note)
		}
	}
	l, err := w.update(t, lock.PartToolchain)
	if err != nil || l.Go.Version != "1.26.8" {
		t.Fatalf("found Go %s (%v)", l.Go.Version, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "keeping Go 1.26.8") ||
		!strings.Contains(notes[0], "--go") {
		t.Errorf("expected to be told that Go stays, found %q", notes)
	}
	for _, bad := range []string{"1.26", "one", "go1.26.8", "1.26.8; rm"} {
		w.options.Go = bad
		_, err := w.update(t, lock.PartToolchain)
		wants(t, err, "Go version", bad)
	}
}
