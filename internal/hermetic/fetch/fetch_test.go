package fetch

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
)

// machine writes an apt configuration and returns the root above it.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "etc/apt", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestAptSources(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  map[string][]string
	}{
		{"nothing", nil, map[string][]string{}},
		{"one-line form", map[string]string{"sources.list": `
# deb http://comment.example/debian trixie main
deb http://a.example/debian/ trixie main contrib   # the rest is a comment
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://b.example/mirror/debian bookworm-updates main
deb [ trusted=yes ] http://c.example/deb stable-backports main
deb-src http://d.example/debian sid main
deb http://a.example/debian trixie-updates main
deb http://s.example/debian-security trixie-security main
deb http://old.example/debian-security buster/updates main
deb
deb [broken http://x.example/debian trixie main
rpm http://x.example/debian trixie main
`}, map[string][]string{
			lock.Debian: {"http://a.example/debian", "https://b.example/mirror/debian",
				"http://c.example/deb", "http://d.example/debian"},
			lock.Security: {"http://s.example/debian-security", "http://old.example/debian-security"},
		}},
		{"stanzas", map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
# a comment inside
URIs: http://a.example/debian
 http://b.example/debian
Suites: trixie trixie-updates
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGfpPhUBEACnIlNQO4hEcoTe6
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main

types: deb
uris: http://s.example/debian-security/
suites: trixie-security
components: main
`}, map[string][]string{
			lock.Debian:   {"http://a.example/debian", "http://b.example/debian"},
			lock.Security: {"http://s.example/debian-security"},
		}},
		{"order of files, and files that apt ignores", map[string]string{
			"sources.list":          "deb http://first.example/debian trixie main\n",
			"sources.list.d/b.list": "deb http://third.example/debian trixie main\n",
			"sources.list.d/a.sources": "Types: deb\n" +
				"URIs: http://second.example/debian\nSuites: trixie\nComponents: main\n",
			"sources.list.d/a.list.save": "deb http://saved.example/debian trixie main\n",
			"sources.list.d/a.sources.bak": "Types: deb\n" +
				"URIs: http://saved.example/debian\nSuites: trixie\nComponents: main\n",
		}, map[string][]string{lock.Debian: {"http://first.example/debian", "http://second.example/debian",
			"http://third.example/debian"}}},
		{"not Debian, or not to be read by neb", map[string]string{
			"sources.list": `
deb http://archive.example/ubuntu noble main universe
deb http://archive.example/ubuntu noble-security main
deb https://docker.example/linux/debian trixie stable
deb https://node.example/node_20.x nodistro main
deb https://postgres.example/apt trixie-pgdg main
deb cdrom:[Debian 13]/ trixie main
deb tor+http://x.example/debian trixie main
deb mirror+file:/etc/apt/mirrors trixie main
deb ftp://x.example/debian trixie main
deb http://flat.example/repo ./
`,
		}, map[string][]string{}},
		{"local", map[string]string{"sources.list": "deb file:/srv/debian trixie main\n" +
			"deb file:///srv/mirror/debian trixie main\n"},
			map[string][]string{lock.Debian: {"file:/srv/debian", "file:///srv/mirror/debian"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NEB_MIRROR", "")
			m, err := OfMachine(t.Context(), machine(t, tt.files), false)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m.Archives, tt.want) {
				t.Errorf("expected %v, found %v", tt.want, m.Archives)
			}
		})
	}
}

func TestNamedMirrors(t *testing.T) {
	root := machine(t, map[string]string{"sources.list": "deb http://apt.example/debian trixie main\n" +
		"deb http://apt.example/debian-security trixie-security main\n"})
	for _, tt := range []struct {
		value            string
		debian, security []string
	}{
		{"", nil, nil},
		{"http://m.example", []string{"http://m.example/debian"},
			[]string{"http://m.example/debian-security"}},
		{"http://m.example/debian/", []string{"http://m.example/debian"}, nil},
		{"http://m.example/debian, https://n.example/x/debian-security  file:///srv/deb",
			[]string{"http://m.example/debian",
				"file:///srv/deb/debian"},
			[]string{"https://n.example/x/debian-security", "file:///srv/deb/debian-security"}},
		{"http://apt.example/debian", []string{"http://apt.example/debian"}, nil},
	} {
		t.Setenv("NEB_MIRROR", tt.value)
		m, err := OfMachine(t.Context(), root, false)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]string{}, tt.debian...)
		if len(tt.debian) == 0 || tt.debian[0] != "http://apt.example/debian" {
			want = append(want, "http://apt.example/debian")
		}
		if !reflect.DeepEqual(m.Archives[lock.Debian], want) {
			t.Errorf("%q: expected %v, found %v", tt.value, want, m.Archives[lock.Debian])
		}
		want = append(append([]string{}, tt.security...), "http://apt.example/debian-security")
		if !reflect.DeepEqual(m.Archives[lock.Security], want) {
			t.Errorf("%q: expected %v, found %v", tt.value, want, m.Archives[lock.Security])
		}
	}
	for _, value := range []string{"m.example/debian", "ftp://m.example/debian", "http://",
		"http://ok.example %zz"} {
		t.Setenv("NEB_MIRROR", value)
		if _, err := OfMachine(t.Context(), root, false); err == nil ||
			!strings.Contains(err.Error(), "NEB_MIRROR") {
			t.Errorf("%q: expected an error about NEB_MIRROR, found %v", value, err)
		}
	}
	for _, password := range []string{"secret%", "secret#1", "secret[", "secret/x"} {
		t.Setenv("NEB_MIRROR", "http://me:"+password+"@m.example/debian")
		if _, err := OfMachine(t.Context(), root, false); err == nil ||
			strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: expected an error without the password, found %v", password, err)
		}
	}
}

// TestMirrorOnly: neither apt's mirrors nor the snapshots are asked.
func TestMirrorOnly(t *testing.T) {
	root := machine(t, map[string]string{"sources.list": "deb http://apt.example/debian trixie main\n"})
	t.Setenv("NEB_MIRROR", "http://own.example")
	m, err := OfMachine(t.Context(), root, true)
	if err != nil {
		t.Fatal(err)
	}
	f := mirror.Locked("bash", []byte("x"))
	if got, want := m.urls(f), []string{"http://own.example/debian/" + f.Path}; !reflect.DeepEqual(got,
		want) {
		t.Errorf("expected %q, found %q", want, got)
	}
	t.Setenv("NEB_MIRROR", " ")
	if _, err := OfMachine(t.Context(), root, true); err == nil ||
		!strings.Contains(err.Error(), "needs NEB_MIRROR") {
		t.Errorf("without NEB_MIRROR: %v", err)
	}
}

func TestProxies(t *testing.T) {
	for _, tt := range []struct {
		list string
		want []string
	}{
		{"", nil},
		{"https://p.example,direct", []string{"https://p.example"}},
		{"https://p.example/|https://q.example/go,off",
			[]string{"https://p.example", "https://q.example/go"}},
		{"off", nil},
		{"off,https://p.example", nil},
		{"direct", nil},
		{"file:///srv/go, https://p.example", []string{"file:///srv/go", "https://p.example"}},
	} {
		if got := proxies(tt.list); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: expected %v, found %v", tt.list, tt.want, got)
		}
	}
}

func TestURLs(t *testing.T) {
	m := Mirrors{Archives: map[string][]string{lock.Debian: {"http://a.example/debian"}},
		Snapshots: "http://snap.example/archive", Proxies: []string{"http://p.example"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, tt := range []struct {
		f    lock.File
		want []string
	}{
		{lock.File{Archive: lock.Debian, Path: "pool/main/g/gcc+x/x_1%2_all.deb", Snapshot: at},
			[]string{"http://a.example/debian/pool/main/g/gcc+x/x_1%252_all.deb",
				"http://snap.example/archive/debian/20260102T020405Z/pool/main/g/gcc+x/x_1%252_all.deb"}},
		{lock.File{Archive: lock.Security, Path: "pool/x", Snapshot: at},
			[]string{"http://snap.example/archive/debian-security/20260102T020405Z/pool/x"}},
		{lock.File{Archive: lock.GoProxy, Path: "golang.org/toolchain/@v/v.zip"},
			[]string{"http://p.example/golang.org/toolchain/@v/v.zip"}},
	} {
		if got := m.urls(tt.f); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("expected %v, found %v", tt.want, got)
		}
	}
}

func FuzzAptSources(f *testing.F) {
	f.Add("deb [a=b] http://a.example/debian trixie main\n",
		"Types: deb\nURIs: http://a.example/debian\nSuites: trixie\nComponents: main\n")
	f.Add("deb [", " x\n:\n")
	f.Fuzz(func(t *testing.T, list, sources string) {
		for _, s := range append(listSources(list), deb822Sources(sources)...) {
			if s.archive() != "" && !strings.Contains(s.uri, ":") {
				t.Errorf("took %q for a mirror", s.uri)
			}
		}
	})
}
