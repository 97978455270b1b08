// Package images makes images for tests: layers from a few words each, and layouts, archives and registries
// of them. It builds everything with other code than what is tested.
package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Entry is one entry of a layer.
type Entry struct {
	tar.Header
	Body string
}

// Time is when all entries were changed.
var Time = time.Unix(1_700_000_000, 0)

// Dir is a directory.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

// File is a file.
func File(name, body string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Body: body}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Mode: 0o777, Linkname: target}}
}

// Link is a hard link.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Mode: 0o644, Linkname: target}}
}

// Node is a device node (tar.TypeChar, tar.TypeBlock) or a fifo.
func Node(kind byte, name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major,
		Devminor: minor}}
}

// Sparse is a file of size bytes that begins with body and is a hole from there on.
func Sparse(name, body string, size int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeGNUSparse, Name: name, Mode: 0o644, Size: size},
		Body: body}
}

// With changes an entry's header.
func (e Entry) With(change func(*tar.Header)) Entry {
	change(&e.Header)
	return e
}

// Layer is the archive of a layer.
func Layer(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeGNUSparse {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			writeSparse(&b, e)
			continue
		}
		h.Size = int64(len(e.Body))
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = Time
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Layers is the archives of several layers.
func Layers(t testing.TB, layers ...[]Entry) (all [][]byte) {
	t.Helper()
	for _, entries := range layers {
		all = append(all, Layer(t, entries...))
	}
	return all
}

// writeSparse writes a file in GNU's sparse form 1.0, whose map of the data comes before the data.
// archive/tar reads such files and writes none, so the blocks are put together here.
func writeSparse(b *bytes.Buffer, e Entry) {
	record := func(k, v string) string {
		n := len(k) + len(v) + 3 // itself, a blank, "=" and a line feed
		for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		return fmt.Sprintf("%d %s=%s\n", n, k, v)
	}
	block := func(name string, typeflag byte, body string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], fmt.Sprintf("%07o\x00", e.Mode))
		copy(h[108:], fmt.Sprintf("%07o\x00%07o\x00", e.Uid, e.Gid))
		copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", len(body), Time.Unix()))
		h[156] = typeflag
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ") // the checksum is made with blanks in its own place
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
		b.WriteString(body)
		b.Write(make([]byte, -len(body)&511))
	}
	// Two runs of data: the body at the start, and nothing at the end, which gives the size.
	data := fmt.Sprintf("2\n0\n%d\n%d\n0\n", len(e.Body), e.Size)
	data += string(make([]byte, -len(data)&511))
	block("PaxHeaders/sparse", tar.TypeXHeader, record("GNU.sparse.major", "1")+record("GNU.sparse.minor",
		"0")+
		record("GNU.sparse.name", e.Name)+record("GNU.sparse.realsize", fmt.Sprint(e.Size)))
	block("GNUSparseFile.0/sparse", tar.TypeReg, data+e.Body)
}

// Compression is how layers are stored.
type Compression string

const (
	Plain Compression = "application/vnd.oci.image.layer.v1.tar"
	Gzip  Compression = "application/vnd.oci.image.layer.v1.tar+gzip"
	Zstd  Compression = "application/vnd.oci.image.layer.v1.tar+zstd"
	Xz    Compression = "application/vnd.oci.image.layer.v1.tar+xz"
)

// Pack compresses.
func (c Compression) Pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch c {
	case Plain:
		return b
	case Gzip:
		w = gzip.NewWriter(&out)
	case Zstd:
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	case Xz:
		z, err := xz.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Digest is the name of a blob.
func Digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// Descriptor points to a blob.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int               `json:"size"`
	Digest       string            `json:"digest"`
	Platform     map[string]string `json:"platform,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// Layout is an OCI layout that is being made: names and what is in them.
type Layout struct {
	t      testing.TB
	Pieces map[string][]byte
	Index  []Descriptor
}

// NewLayout begins a layout.
func NewLayout(t testing.TB) *Layout {
	return &Layout{t: t, Pieces: map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
}

// Blob adds a blob.
func (l *Layout) Blob(mediaType string, b []byte) Descriptor {
	l.Pieces["blobs/sha256/"+Digest(b)[len("sha256:"):]] = b
	return Descriptor{MediaType: mediaType, Size: len(b), Digest: Digest(b)}
}

// JSON adds a blob with a document.
func (l *Layout) JSON(mediaType string, v any) Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Blob(mediaType, b)
}

// Config is a configuration for arch with layers of the given archives.
func Config(arch string, layers [][]byte) map[string]any {
	ids := []string{}
	for _, b := range layers {
		ids = append(ids, Digest(b))
	}
	return map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Cmd": []string{"/app"},
			"Env": []string{"A=b"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	}
}

// Image adds an image for arch (amd64, arm64) and returns its manifest's descriptor. Layers are stored in the
// given ways in turn.
func (l *Layout) Image(arch string, layers [][]byte, ways ...Compression) Descriptor {
	l.t.Helper()
	var ds []Descriptor
	for i, b := range layers {
		way := ways[i%len(ways)]
		ds = append(ds, l.Blob(string(way), way.Pack(l.t, b)))
	}
	return l.Manifest(l.JSON("application/vnd.oci.image.config.v1+json", Config(arch, layers)), ds)
}

// Manifest adds a manifest.
func (l *Layout) Manifest(config Descriptor, layers []Descriptor) Descriptor {
	l.t.Helper()
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	return l.JSON(manifest, map[string]any{"schemaVersion": 2, "mediaType": manifest, "config": config,
		"layers": layers})
}

// Name puts an image into the index. A name of "" gives it none.
func (l *Layout) Name(d Descriptor, name string) {
	if name != "" {
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	}
	l.Index = append(l.Index, d)
}

func (l *Layout) end() {
	const index = "application/vnd.oci.image.index.v1+json"
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": l.Index})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Pieces["index.json"] = b
}

// Dir writes the layout to a directory.
func (l *Layout) Dir() string {
	l.t.Helper()
	l.end()
	dir := l.t.TempDir()
	for name, b := range l.Pieces {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	return dir
}

// Archive writes the layout to a tar file.
func (l *Layout) Archive() string {
	l.t.Helper()
	l.end()
	return Archive(l.t, l.Pieces)
}

// Archive writes pieces to a tar file.
func Archive(t testing.TB, pieces map[string][]byte) string {
	t.Helper()
	var entries []Entry
	for name, b := range pieces {
		entries = append(entries, File(name, string(b)))
	}
	file := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(file, Layer(t, entries...), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// DockerSave writes an archive as docker save did before engine 25.
func DockerSave(t testing.TB, arch, tag string, layers [][]byte) string {
	t.Helper()
	config, err := json.Marshal(Config(arch, layers))
	if err != nil {
		t.Fatal(err)
	}
	id := Digest(config)[len("sha256:"):]
	pieces := map[string][]byte{id + ".json": config}
	var names []string
	for i, b := range layers {
		name := fmt.Sprintf("%064x/layer.tar", i+1)
		names = append(names, name)
		pieces[name] = b
	}
	if pieces["manifest.json"], err = json.Marshal([]map[string]any{{"Config": id + ".json",
		"RepoTags": []string{tag}, "Layers": names}}); err != nil {
		t.Fatal(err)
	}
	return Archive(t, pieces)
}
