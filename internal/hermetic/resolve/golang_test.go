package resolve

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/note"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
)

// toolchainZip is a module zip as a proxy serves it.
func toolchainZip(t *testing.T, version, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(toolchainModule + "@" + version + "/bin/go")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const goMod = "module " + toolchainModule + "\n"

// proxy is a stand-in module proxy with toolchains, which passes a checksum database through.
func proxy(t *testing.T, zips map[string][]byte, db http.Handler) string {
	t.Helper()
	return mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/sumdb/db.example"); ok && db != nil {
			if path == "/supported" {
				return
			}
			r.URL.Path = path
			db.ServeHTTP(w, r)
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, "/"+toolchainModule+"/@v/")
		version := strings.TrimSuffix(name, filepath.Ext(name))
		data, there := zips[version]
		switch {
		case ok && name == "list":
			for v := range zips {
				_, _ = w.Write([]byte(v + "\n"))
			}
		case !ok || !there:
			http.NotFound(w, r)
		case strings.HasSuffix(name, ".info"):
			_, _ = w.Write([]byte(`{"Version":"` + version + `"}`))
		case strings.HasSuffix(name, ".mod"):
			_, _ = w.Write([]byte(goMod))
		default:
			_, _ = w.Write(data)
		}
	}).URL
}

// TestGoToolchain has the go command find and verify toolchains at stand-ins of a proxy and a checksum
// database.
func TestGoToolchain(t *testing.T) {
	good, bad := map[string][]byte{}, map[string][]byte{}
	for _, host := range lock.Hosts {
		for _, v := range []string{"1.26.8", "1.26.9", "1.27.1"} {
			v = toolchainPrefix + v + ".linux-" + host
			good[v], bad[v] = toolchainZip(t, v, v), toolchainZip(t, v, "something else")
		}
	}
	signer, verifier, err := note.GenerateKey(nil, "db.example")
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := note.GenerateKey(nil, "db.example")
	if err != nil {
		t.Fatal(err)
	}
	db := sumdb.NewServer(sumdb.NewTestServer(signer, func(path, version string) ([]byte, error) {
		data, ok := good[version]
		if path != toolchainModule || !ok {
			return nil, errors.New("no such module")
		}
		name := filepath.Join(t.TempDir(), "zip")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return nil, err
		}
		h, err := dirhash.HashZip(name, dirhash.Hash1)
		if err != nil {
			return nil, err
		}
		m, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(goMod)), nil
		})
		return fmt.Appendf(nil, "%s %s %s\n%[1]s %[2]s/go.mod %[4]s\n", path, version, h, m), err
	}))
	for _, tt := range []struct {
		name    string
		proxy   string
		goFlag  string
		sumDB   string
		version string
		words   []string
	}{
		{"newest patch", proxy(t, good, db), "", verifier, "1.26.9", nil},
		{"chosen with --go", proxy(t, good, db), "1.27.1", verifier, "1.27.1", nil},
		{"wrong content", proxy(t, bad, db), "", verifier, "", []string{"Go 1.26.9 for amd64",
			"checksum mismatch"}},
		{"version that no proxy has", proxy(t, good, db), "1.26.99", verifier, "",
			[]string{"Go 1.26.99", "404"}},
		{"database of another key", proxy(t, good, db), "", stranger, "",
			[]string{"no verifiable signatures"}},
		{"no database", proxy(t, good, nil), "", "off", "", []string{"Go 1.26.9", "disabled by GOSUMDB=off"}},
		{"no proxy lists toolchains", "off", "", verifier, "1.26.8", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			t.Setenv("GOPROXY", tt.proxy)
			t.Setenv("GOSUMDB", tt.sumDB)
			t.Setenv("GOPATH", t.TempDir()) // what the go command remembers of a database
			t.Setenv("GOFLAGS", "-modcacherw")
			w.options.Go = tt.goFlag
			w.options.Progress = func(e progress.Event) { t.Log(e.Note) }
			l, err := w.update(t, lock.PartToolchain)
			if tt.words != nil {
				wants(t, err, tt.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l.Go.Version != tt.version {
				t.Errorf("expected Go %s, found %s", tt.version, l.Go.Version)
			}
			for _, host := range lock.Hosts {
				f := l.Go.Hosts[host]
				if want := good[f.Version]; tt.version != "1.26.8" && (f.Size != int64(len(want)) ||
					f.SHA256 != mirror.Hash(want)) {
					t.Errorf("%s: expected %d bytes with SHA-256 %s, found %d with %s", host, len(want),
						mirror.Hash(want), f.Size, f.SHA256)
				}
			}
		})
	}
}
