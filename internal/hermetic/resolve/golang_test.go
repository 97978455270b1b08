package resolve

import (
	"archive/zip"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/note"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// toolchainZip is a module zip as a proxy serves it.
func toolchainZip(t *testing.T, version, host, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(toolchainModule + "@" + toolchainPrefix + version + ".linux-" + host + "/bin/go")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// proxy is a stand-in module proxy with toolchains, which passes a checksum database through.
func proxy(t *testing.T, zips map[string][]byte, db http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const dir = "/" + toolchainModule + "/@v/"
		if path, ok := strings.CutPrefix(r.URL.Path, "/sumdb/db.example"); ok && db != nil {
			r.URL.Path = path
			db.ServeHTTP(w, r)
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, dir)
		if ok && name == "list" {
			for v := range zips {
				_, _ = w.Write([]byte(v + "\n"))
			}
			return
		}
		data, there := zips[strings.TrimSuffix(name, ".zip")]
		if !ok || !there {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestGoToolchain(t *testing.T) {
	good := map[string][]byte{}
	for _, host := range lock.Hosts {
		for _, v := range []string{"1.26.8", "1.26.9", "1.27.1"} {
			good[toolchainPrefix+v+".linux-"+host] = toolchainZip(t, v, host, "go "+v+" "+host)
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
		return []byte(path + " " + version + " " + h + "\n" + path + " " + version + "/go.mod " + h +
			"\n"), err
	}))
	bad := map[string][]byte{}
	for v := range good {
		bad[v] = toolchainZip(t, "1.26.9", "amd64", "something else")
	}
	servers := func(handlers ...*httptest.Server) []string {
		var urls []string
		for _, s := range handlers {
			urls = append(urls, s.URL)
		}
		return urls
	}
	for _, tt := range []struct {
		name    string
		proxies []string
		goFlag  string
		sumDB   string
		version string
		words   []string
	}{
		{"newest patch", servers(proxy(t, good, db)), "", verifier, "1.26.9", nil},
		{"said by hand", servers(proxy(t, good, db)), "1.27.1", verifier, "1.27.1", nil},
		{"first proxy wrong", servers(proxy(t, bad, db), proxy(t, good, nil)), "", verifier, "1.26.9", nil},
		{"first proxy empty", servers(proxy(t, nil, nil), proxy(t, good, db)), "", verifier, "1.26.9", nil},
		{"all proxies wrong", servers(proxy(t, bad, db)), "", verifier, "",
			[]string{"Go 1.26.9 for amd64", "wrong content", "h1:"}},
		{"version that no proxy has", servers(proxy(t, good, db)), "1.26.99", verifier, "",
			[]string{"Go 1.26.99", "not found"}},
		{"database of another key", servers(proxy(t, good, db)), "", stranger, "",
			[]string{"checksum database"}},
		{"database out of reach", servers(proxy(t, good, nil)), "", verifier + " http://127.0.0.1:1", "",
			[]string{"checksum database", "GOSUMDB=off"}},
		{"database unknown", servers(proxy(t, good, db)), "", "other.example", "",
			[]string{"GOSUMDB", "other.example"}},
		{"no database", servers(proxy(t, bad, nil)), "", "off", "1.26.9", nil},
		{"not a zip", servers(proxy(t, map[string][]byte{
			toolchainPrefix + "1.26.9.linux-amd64": []byte("<html>"), toolchainPrefix +
				"1.26.9.linux-arm64": []byte("<html>"),
		}, db)), "", verifier, "", []string{"module zip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.options.Mirrors.Proxies, w.options.Go, w.options.SumDB = tt.proxies, tt.goFlag, tt.sumDB
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
				want := good[f.Version]
				if tt.sumDB == "off" {
					want = bad[f.Version]
				}
				if f.Size != int64(len(want)) || f.SHA256 != sum(want) {
					t.Errorf("%s: expected %d bytes with SHA-256 %s, found %d with %s", host, len(want),
						sum(want), f.Size, f.SHA256)
				}
			}
			if _, err := lock.Read(bytes.NewReader(l.Bytes())); err == nil ||
				strings.Contains(err.Error(), "Go") {
				t.Errorf("expected only the other parts to be missing, found %v", err)
			}
		})
	}
}
