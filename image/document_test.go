package image_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestAbsurdDocuments gives documents of few bytes for each value, wherever one is read, and counts what they
// cost.
func TestAbsurdDocuments(t *testing.T) {
	// absurd fills a list, with one byte less than is read and with far more.
	absurd := func(head, element, tail string, size int) []byte {
		n := (size - len(head) - len(tail)) / (len(element) + 1)
		return []byte(head + strings.Repeat(element+",", n-1) + element + tail)
	}
	const (
		values = "more than 100000 JSON values"
		bytes4 = "larger than 4194304 bytes"
		fits   = 4<<20 - 1
		index  = "application/vnd.oci.image.index.v1+json"
		costly = `{"annotations":{"":""},"platform":{}}`
	)
	layout := func(pieces ...[]byte) string { // a layout whose last piece's manifest leads to the first
		l := NewLayout(t)
		d := l.Blob(index, pieces[len(pieces)-1])
		for _, p := range pieces[:len(pieces)-1] {
			l.Blob("c", p)
		}
		l.Name(d, "")
		return "oci:" + l.Dir()
	}
	bare := func(name string, content []byte) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	config := absurd(`{"history":[`, `{}`, `]}`, fits)
	open := func(ref string) func() error {
		return func() error {
			img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64"})
			if err == nil {
				img.Close()
			}
			return err
		}
	}
	serves := func(manifest []byte) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(manifest)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://") + "/a:1"
	}
	manifests, layers := `{"schemaVersion":2,"manifests":[`, `{"schemaVersion":2,"layers":[`
	full := absurd(manifests, `{}`, `]}`, 32<<20)
	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"index.json", open("oci:" + bare("index.json", full)), bytes4},
		{"index.json that fits", open("oci:" + bare("index.json", absurd(manifests, `{}`, `]}`, fits))), values},
		{"costly elements", open("oci:" + bare("index.json", absurd(manifests, costly, `]}`, fits))), values},
		{"as many as are read", open("oci:" + bare("index.json", absurd(manifests, `{}`, `]}`, 149_000))), `digest ":"`},
		{"manifest.json", open("docker-archive:" + bare("manifest.json", absurd(`[`, `{}`, `]`, 32<<20))), bytes4},
		{"manifest.json that fits", open("docker-archive:" + bare("manifest.json", absurd(`[`, `{}`, `]`, fits))), values},
		{"manifest", open(layout(absurd(layers, `{}`, `]}`, fits))), values},
		{"index", open(layout(absurd(manifests, `{}`, `]}`, fits))), values},
		{"configuration", open(layout(config, fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q}}`, Digest(config)))), values},
		{"a registry's manifest", open(serves(absurd(layers, `{}`, `]}`, fits))), values},
		{"a registry's large manifest", open(serves(full)), bytes4},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := c.do()
			runtime.ReadMemStats(&after)
			cost := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d MB", cost>>20)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%.300v, want %q", err, c.want)
			}
			if cost > 256<<20 {
				t.Errorf("%d MB were allocated on the way, want at most 256", cost>>20)
			}
		})
	}
}

// TestAmbiguousDocuments gives manifests that other programs read as another image.
func TestAmbiguousDocuments(t *testing.T) {
	const config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}`
	try := func(config, manifest string) error {
		l := NewLayout(t)
		d := l.Blob("application/vnd.oci.image.config.v1+json", []byte(config))
		manifest = strings.ReplaceAll(manifest, "CONFIG", fmt.Sprintf(`{"digest":%q}`, d.Digest))
		l.Name(l.Blob("application/vnd.oci.image.manifest.v1+json", []byte(manifest)), "")
		img, err := image.Open(t.Context(), "oci:"+l.Dir(), image.Options{Arch: "x86_64"})
		if err == nil {
			img.Close()
		}
		return err
	}
	const good = `{"schemaVersion":2,"config":CONFIG,"layers":[]}`
	for _, c := range []struct{ name, config, manifest, want string }{
		{"good", config + `}`, good, ""},
		{"a field in another case", config + `,"Config":{"cmd":["/a"]}}`, good, ""},
		{"labels that differ in case", config + `,"config":{"Labels":{"a":"1","A":"2"},"Volumes":{"/a":{},"/A":{}}}}`,
			good, ""},
		{"a field twice", config + `,"config":{"Cmd":["/a"],"Cmd":["/b"]}}`, good, `"Cmd" is twice`},
		{"a field twice, once in another case", config + `,"config":{"Cmd":["/a"],"cmd":["/b"]}}`, good,
			`"cmd" is twice`},
		{"a letter that Go takes for another", config + `,"config":{"User":"1","U\u017fer":"0"}}`, good, `is twice`},
		{"a label twice", config + `,"config":{"Labels":{"a":"1","a":"2"}}}`, good, `"a" is twice`},
		{"layers twice", config + `}`, good[:len(good)-1] + `,"Layers":[]}`, `"Layers" is twice`},
		{"null", `null`, good, ""},
		{"nothing but null", config + `}`, `{"schemaVersion":2,"config":null,"layers":null}`, "configuration"},
		{"a number with a fraction", config + `}`, strings.Replace(good, ":2", ":2.5", 1), "2.5"},
		{"a number beyond 64 bits", config + `,"config":{"Healthcheck":{"Retries":1e99}}}`, good, "1e99"},
		{"an index and an image", config + `}`, good[:len(good)-1] + `,"manifests":[]}`, "as in an index"},
	} {
		err := try(c.config, c.manifest)
		if c.want == "" && err != nil || c.want != "" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}
