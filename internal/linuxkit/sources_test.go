package linuxkit_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// some is an image of three layers with a bit of everything.
var some = [][]Entry{
	{Dir("bin/", 0o755), File("bin/app", strings.Repeat("code", 100_000)), Dir("etc/", 0o755), File("etc/passwd", "root:x:0:0::/:/bin/sh\n"), File("old", "x")},
	{File("etc/more", "1"), File(".wh.old", ""), Link("bin/again", "bin/app")},
	{Symlink("sbin", "bin"), File("sbin/tool", "2")},
}

// serve serves a registry for the test, and returns its host.
func serve(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push copies the only entry of a layout's index to a registry.
func push(t testing.TB, dir, ref string) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	d := m.Manifests[0]
	if d.MediaType.IsIndex() {
		child, err := index.ImageIndex(d.Digest)
		if err == nil {
			err = remote.WriteIndex(to, child)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	img, err := index.Image(d.Digest)
	if err == nil {
		err = remote.Write(to, img)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSameFromEverySource makes the ramdisk of one image from everywhere it can be; only a Docker engine is missing here.
func TestSameFromEverySource(t *testing.T) {
	all := layers(t, some)
	host := serve(t)
	plain, packed := NewLayout(t), NewLayout(t)
	plain.Name(plain.Image("amd64", all, Plain), "some:1")
	packed.Name(packed.Image("amd64", all, Gzip, Zstd), "some:1")
	both := NewLayout(t)
	two := both.Image("arm64", layers(t, some[:1]), Gzip)
	two.Platform = map[string]string{"os": "linux", "architecture": "arm64", "variant": "v8"}
	one := both.Image("amd64", all, Gzip)
	one.Platform = map[string]string{"os": "linux", "architecture": "amd64"}
	attestation := both.Manifest(both.JSON("application/vnd.oci.image.config.v1+json", map[string]any{}), nil)
	attestation.Platform = map[string]string{"os": "unknown", "architecture": "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	const index = "application/vnd.oci.image.index.v1+json"
	both.Name(both.JSON(index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []Descriptor{two, one, attestation}}), "")
	push(t, packed.Dir(), host+"/dir/some:1")
	push(t, both.Dir(), host+"/both:2")
	image1, err := remote.Get(must(name.ParseReference(host + "/dir/some:1")))
	if err != nil {
		t.Fatal(err)
	}
	cache := linuxkit.Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	if err := cache.Pull(t.Context(), host+"/both:2", "amd64"); err != nil {
		t.Fatal(err)
	}
	gz := filepath.Join(t.TempDir(), "saved.tar.gz")
	saved := DockerSave(t, "amd64", "some:1", all)
	raw, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gz, Gzip.Pack(t, raw), 0o644); err != nil {
		t.Fatal(err)
	}

	var first string
	for _, ref := range []string{
		"oci:" + plain.Dir(),
		"oci:" + packed.Dir() + ":some:1",
		"oci:" + packed.Dir() + ":docker.io/library/some:1",
		"oci-archive:" + plain.Archive(),
		"oci-archive:" + packed.Archive() + ":some:1",
		"oci:" + both.Dir(),
		"oci-archive:" + both.Archive(),
		"docker-archive:" + saved,
		"docker-archive:" + saved + ":some:1",
		"docker-archive:" + gz,
		host + "/dir/some:1",
		"docker://" + host + "/dir/some@" + image1.Digest.String(),
		host + "/both:2",
		"oci:" + cache.Dir + ":" + host + "/both:2",
	} {
		b, err := ramdisk(t, &linuxkit.Config{Init: []string{ref}, Prefix: "rootfs/"}, linuxkit.Ramdisk{Complete: true})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if first == "" {
			first = sum
			l := newc(t, b)
			for _, want := range []string{`rootfs/bin/tool f 644 0:0 "2"`, `neb/complete f 644 0:0 "neb ramdisk complete 1\n"`} {
				if !strings.Contains(strings.Join(l.lines, "\n"), want) {
					t.Errorf("there is no %s", want)
				}
			}
			if !bytes.Contains(b[len(b)-400:], []byte("neb/complete")) {
				t.Error("neb/complete is not at the end")
			}
		}
		if sum != first {
			t.Errorf("%s: the ramdisk differs from the first", ref)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestOpenRefuses(t *testing.T) {
	all := layers(t, some)
	host := serve(t)
	l := NewLayout(t)
	l.Name(l.Image("amd64", all, Gzip), "a:1")
	l.Name(l.Image("amd64", all[:1], Gzip), "b:1")
	arm := NewLayout(t)
	arm.Name(arm.Image("arm64", all, Gzip), "")
	push(t, arm.Dir(), host+"/arm:1")
	indexed := NewLayout(t)
	d := indexed.Image("arm64", all, Gzip)
	d.Platform = map[string]string{"os": "linux", "architecture": "arm64"}
	const index = "application/vnd.oci.image.index.v1+json"
	indexed.Name(indexed.JSON(index, map[string]any{"schemaVersion": 2, "manifests": []Descriptor{d}}), "")
	loop := NewLayout(t)
	d = loop.Image("amd64", all, Gzip)
	for range 5 {
		d = loop.JSON(index, map[string]any{"schemaVersion": 2, "manifests": []Descriptor{d}})
	}
	loop.Name(d, "")
	fewer := NewLayout(t)
	fewer.Name(fewer.Manifest(fewer.JSON("c", Config("amd64", all)), nil), "")
	huge := NewLayout(t)
	huge.Name(huge.Blob(index, bytes.Repeat([]byte(" "), 5<<20)), "")
	hugeConfig := NewLayout(t)
	hugeConfig.Name(hugeConfig.Manifest(hugeConfig.Blob("c", bytes.Repeat([]byte(" "), 9<<20)), nil), "")
	deepConfig := NewLayout(t)
	deepConfig.Name(deepConfig.Manifest(deepConfig.Blob("c", bytes.Repeat([]byte(`{"config":`), 20_000)), nil), "")
	changed := NewLayout(t)
	d = changed.Image("amd64", all, Gzip)
	changed.Pieces["blobs/sha256/"+d.Digest[len("sha256:"):]] = []byte("{}")
	changed.Name(d, "")
	gone := NewLayout(t)
	d = gone.Image("amd64", all, Gzip)
	delete(gone.Pieces, "blobs/sha256/"+d.Digest[len("sha256:"):])
	gone.Name(d, "")
	evil := NewLayout(t)
	d = evil.Image("amd64", all, Gzip)
	d.Digest = "sha256:../../../../etc/passwd"
	evil.Name(d, "")
	v1schema := NewLayout(t)
	v1schema.Name(v1schema.JSON("application/vnd.docker.distribution.manifest.v1+json", map[string]any{"schemaVersion": 1}), "")
	encrypted := NewLayout(t)
	encrypted.Name(encrypted.Manifest(encrypted.JSON("c", Config("amd64", all[:1])), []Descriptor{encrypted.Blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", []byte("x"))}), "")
	empty := t.TempDir()
	for _, c := range []struct{ ref, want string }{
		{"oci:" + l.Dir(), "holds 2 images"},
		{"oci:" + l.Dir() + ":c:1", "no image c:1 (it has: a:1, b:1)"},
		{"oci:" + arm.Dir(), "it is for linux/arm64, and linux/amd64 is wanted"},
		{host + "/arm:1", "it is for linux/arm64, and linux/amd64 is wanted"},
		{"oci-archive:" + indexed.Archive(), "no image for linux/amd64 (it has: linux/arm64)"},
		{"oci:" + loop.Dir(), "four deep"},
		{"oci:" + fewer.Dir(), "has 0 layers, its configuration has 3"},
		{"oci:" + huge.Dir(), "more than 4194304 bytes"},
		{"oci:" + hugeConfig.Dir(), "more than 4194304 bytes"},
		{"oci:" + deepConfig.Dir(), "exceeded max depth"},
		{"oci:" + changed.Dir(), "damaged or changed"},
		{"oci:" + gone.Dir(), "no such file"},
		{"oci:" + evil.Dir(), "non-hex character"},
		{"oci:" + v1schema.Dir(), "schema version 1"},
		{"oci:" + encrypted.Dir(), "expected a tar archive"},
		{"oci:" + empty, "neither an OCI layout nor"},
		{"oci:" + empty + "/none", "no such file"},
		{"docker-archive:" + DockerSave(t, "arm64", "x:1", all), "it is for linux/arm64"},
		{"docker-archive:" + DockerSave(t, "amd64", "x:1", all) + ":y:1", `none is "y:1" (it has: x:1)`},
		{"docker-archive:" + os.Args[0], "tar"},
		{"docker-archive:" + Archive(t, map[string][]byte{strings.Repeat("a/", 600) + "x": nil}), "a name or link of more than 1024 bytes"},
		{host + "/none:1", "NAME_UNKNOWN"},
		{"Not A Reference", "could not parse reference"},
	} {
		img, err := image.Open(t.Context(), c.ref, image.Options{Arch: "x86_64"})
		if err == nil {
			img.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.ref) {
			t.Errorf("%s: %v, want the reference and %q", c.ref, err, c.want)
		}
	}
	if _, err := image.Open(t.Context(), "x", image.Options{Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "x86_64 or aarch64") {
		t.Errorf("architecture amd64: %v", err)
	}
}

func TestCache(t *testing.T) {
	all := layers(t, some)
	host := serve(t)
	l := NewLayout(t)
	l.Name(l.Image("amd64", all, Gzip), "")
	push(t, l.Dir(), host+"/a:1")
	other := NewLayout(t)
	other.Name(other.Image("amd64", append(all[:1:1], Layer(t, File("other", "x"))), Gzip), "")
	push(t, other.Dir(), host+"/b:1")

	c := linuxkit.Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	if names := must(c.Images()); len(names) != 0 {
		t.Errorf("an empty cache has %v", names)
	}
	if err := c.Clean(); err != nil {
		t.Errorf("cleaning no cache: %v", err)
	}
	for _, name := range []string{"/a:1", "/b:1", "/a:1"} {
		if err := c.Pull(t.Context(), host+name, ""); err != nil {
			t.Fatal(err)
		}
	}
	if names := must(c.Images()); len(names) != 2 {
		t.Errorf("after two pulls: %v", names)
	}
	// Others' tools read it.
	if index, err := layout.ImageIndexFromPath(c.Dir); err != nil {
		t.Error(err)
	} else if m, err := index.IndexManifest(); err != nil || len(m.Manifests) != 2 {
		t.Errorf("%v %v", m, err)
	}

	o := image.Options{Arch: "x86_64"}
	dir := t.TempDir()
	for _, format := range linuxkit.ExportFormats {
		file := filepath.Join(dir, format)
		if err := c.ExportFile(t.Context(), file, host+"/a:1", format, "new:2", o); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
	}
	want, err := ramdisk(t, &linuxkit.Config{Init: []string{"oci:" + l.Dir()}}, linuxkit.Ramdisk{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"oci-archive:" + dir + "/oci:new:2", "docker-archive:" + dir + "/docker:new:2"} {
		got, err := ramdisk(t, &linuxkit.Config{Init: []string{ref}}, linuxkit.Ramdisk{})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other than what was exported (%v)", ref, err)
		}
	}
	tree := image.NewTree(dir, image.Limits{})
	defer tree.Close()
	if err := tree.AddTar(t.Context(), dir+"/filesystem", ""); err != nil {
		t.Fatal(err)
	}
	if e, ok := tree.Lookup("sbin/tool"); !ok || e.Size != 1 {
		t.Errorf("the exported file system has no sbin/tool")
	}
	if err := c.ExportFile(t.Context(), dir+"/x", host+"/a:1", "iso", "", o); err == nil || !strings.Contains(err.Error(), "iso") {
		t.Errorf("format iso: %v", err)
	}

	again := linuxkit.Cache{Dir: filepath.Join(t.TempDir(), "again")}
	f, err := os.Open(dir + "/oci")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names, _, err := again.Import(t.Context(), f); err != nil || len(names) != 1 || names[0] != "docker.io/library/new:2" {
		t.Errorf("imported %v, %v", names, err)
	}
	if img, err := again.Open(t.Context(), "new:2", o); err != nil {
		t.Error(err)
	} else {
		img.Close()
	}
	saved, err := os.Open(DockerSave(t, "amd64", "x:1", all))
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	if _, _, err := again.Import(t.Context(), saved); err == nil || !strings.Contains(err.Error(), "docker-archive:") {
		t.Errorf("importing an archive of docker save: %v", err)
	}

	// A blob that two images share stays as long as one of them does.
	if err := c.Remove(host + "/a:1"); err != nil {
		t.Fatal(err)
	}
	if img, err := c.Open(t.Context(), host+"/b:1", o); err != nil {
		t.Error(err)
	} else {
		b := image.NewTree(dir, image.Limits{})
		if err := b.AddImage(t.Context(), img, ""); err != nil {
			t.Error(err)
		}
		b.Close()
		img.Close()
	}
	if err := c.Remove("none"); err == nil {
		t.Error("an image that is not there was removed")
	}
	if err := c.Remove(host + "/b:1"); err != nil {
		t.Fatal(err)
	}
	if left := must(os.ReadDir(filepath.Join(c.Dir, "blobs", "sha256"))); len(left) != 0 {
		t.Errorf("%d blobs are left of nothing", len(left))
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Clean(); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("cleaning a directory with something else in it: %v", err)
	}
	if err := os.Remove(filepath.Join(c.Dir, "mine")); err != nil {
		t.Fatal(err)
	}
	if err := c.Clean(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir); err == nil {
		t.Error("the cache is still there")
	}
}

// TestDamagedInTheCache lets a registry give other bytes than a digest says, of which nothing is kept, and then changes what
// the cache holds, which the next pull makes good.
func TestDamagedInTheCache(t *testing.T) {
	honest := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	lies := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !lies || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			honest.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		honest.ServeHTTP(answer, r)
		b := answer.Body.Bytes()
		b[len(b)/2] ^= 1
		w.Write(b)
	}))
	t.Cleanup(s.Close)
	ref := strings.TrimPrefix(s.URL, "http://") + "/a:1"
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers(t, some), Gzip), "")
	push(t, l.Dir(), ref)
	c := linuxkit.Cache{Dir: t.TempDir()}
	blobs := filepath.Join(c.Dir, "blobs", "sha256")

	lies = true
	if err := c.Pull(t.Context(), ref, ""); err == nil || !strings.Contains(err.Error(), "pull "+ref) {
		t.Errorf("a registry that lies: %v", err)
	}
	if kept, err := os.ReadDir(blobs); err == nil && len(kept) > 0 {
		t.Errorf("of a registry that lies was kept: %v", kept)
	}
	lies = false
	pull := func() {
		t.Helper()
		if err := c.Pull(t.Context(), ref, ""); err != nil {
			t.Fatal(err)
		}
	}
	build := func() error {
		_, err := ramdisk(t, &linuxkit.Config{Init: []string{"oci:" + c.Dir + ":" + ref}}, linuxkit.Ramdisk{})
		return err
	}
	pull()
	for _, blob := range must(os.ReadDir(blobs)) {
		file := filepath.Join(blobs, blob.Name())
		b := must(os.ReadFile(file))
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := build(); err == nil {
			t.Errorf("the changed blob %s was taken", blob.Name())
		}
		pull()
		if err := build(); err != nil {
			t.Errorf("after another pull: %v", err)
		}
	}
	t.Setenv("LINUXKIT_MIRROR", "http://mirror.example")
	if err := c.Pull(t.Context(), ref, ""); err == nil || !strings.Contains(err.Error(), "LINUXKIT_MIRROR") {
		t.Errorf("with a mirror: %v", err)
	}
}

// TestCredentials pulls from a registry that lets in who a credential helper knows, and nobody else.
func TestCredentials(t *testing.T) {
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	config, bin := t.TempDir(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, content := range map[string]string{
		config + "/config.json":             fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host),
		bin + "/docker-credential-test":     "#!/bin/sh\nread host\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n",
		bin + "/docker-credential-stranger": "#!/bin/sh\necho '{\"Username\":\"you\",\"Secret\":\"guess\"}'\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers(t, some), Gzip), "")
	index := must(layout.ImageIndexFromPath(l.Dir()))
	img := must(index.Image(must(index.IndexManifest()).Manifests[0].Digest))
	if err := remote.Write(must(name.ParseReference(host+"/private:1")), img, remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	if _, err := ramdisk(t, &linuxkit.Config{Init: []string{host + "/private:1"}}, linuxkit.Ramdisk{}); err != nil {
		t.Error(err)
	}
	cache := linuxkit.Cache{Dir: t.TempDir()}
	if err := cache.Pull(t.Context(), host+"/private:1", "amd64"); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"a helper that does not know": fmt.Sprintf(`{"credHelpers":{%q:"stranger"}}`, host), "nothing": "{}"} {
		if err := os.WriteFile(config+"/config.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := cache.Pull(t.Context(), host+"/private:1", "amd64"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v, want 401", name, err)
		}
	}
}

// blobsIn counts the blobs of a cache.
func blobsIn(t testing.TB, c linuxkit.Cache) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(c.Dir, "blobs", "sha256"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(all)
}

// several is an image for two architectures, the only one of its layout.
func several(t testing.TB) *Layout {
	t.Helper()
	l := NewLayout(t)
	var all []Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		d := l.Image(arch, [][]byte{Layer(t, File("for", arch))}, Gzip)
		d.Platform = map[string]string{"os": "linux", "architecture": arch}
		all = append(all, d)
	}
	const index = "application/vnd.oci.image.index.v1+json"
	l.Name(l.JSON(index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": all}), "")
	return l
}

// TestRemoveSeveral pulls an image for several architectures and removes it, which leaves nothing of it, but what another name has.
func TestRemoveSeveral(t *testing.T) {
	host := serve(t)
	push(t, several(t).Dir(), host+"/s:1")
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers(t, some), Gzip), "")
	push(t, l.Dir(), host+"/s:1-extra")
	c := linuxkit.Cache{Dir: t.TempDir()}
	for _, name := range []string{"/s:1-extra", "/s:1"} {
		if err := c.Pull(t.Context(), host+name, ""); err != nil {
			t.Fatal(err)
		}
	}
	if names := must(c.Images()); len(names) != 4 {
		t.Errorf("after the pull: %v", names)
	}
	if err := c.Remove(host + "/s:1"); err != nil {
		t.Fatal(err)
	}
	if names := must(c.Images()); len(names) != 1 || blobsIn(t, c) != len(some)+2 {
		t.Errorf("%d blobs are left, and %v", blobsIn(t, c), names)
	}
}

// TestImportUnnamed imports an archive of which one image has no name: it is said, and no blob of it stays.
func TestImportUnnamed(t *testing.T) {
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers(t, some[:1]), Gzip), "a:1")
	without := l.Image("amd64", layers(t, some[1:2]), Gzip)
	l.Name(without, "")
	file, err := os.Open(l.Archive())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := linuxkit.Cache{Dir: t.TempDir()}
	names, unnamed, err := c.Import(t.Context(), file)
	if err != nil || fmt.Sprint(names, unnamed) != fmt.Sprintf("[docker.io/library/a:1] [%s]", without.Digest) {
		t.Errorf("%v, without a name %v, %v", names, unnamed, err)
	}
	if n := blobsIn(t, c); n != 3 {
		t.Errorf("%d blobs, want 3: manifest, configuration, layer", n)
	}
	bare := Archive(t, map[string][]byte{"blobs/sha256/" + Digest([]byte("x"))[len("sha256:"):]: []byte("x")})
	if _, _, err := c.Import(t.Context(), bytes.NewReader(must(os.ReadFile(bare)))); err == nil {
		t.Error("an archive without an index was taken")
	}
	if n := blobsIn(t, c); n != 3 {
		t.Errorf("%d blobs after a failed import, want 3", n)
	}
}

// TestCacheLimit pulls and imports more than the limit, of which nothing may be written.
func TestCacheLimit(t *testing.T) {
	l := several(t)
	big := l.Image("amd64", [][]byte{Layer(t, File("big", strings.Repeat("x", 1<<20)))}, Plain)
	l.Index = nil
	l.Name(big, "big:1")
	host := serve(t)
	push(t, l.Dir(), host+"/big:1")
	largest := func(c linuxkit.Cache) (size int64) {
		for _, e := range must(os.ReadDir(c.Dir + "/blobs/sha256")) {
			size = max(size, must(e.Info()).Size())
		}
		return size
	}
	for name, bring := range map[string]func(c linuxkit.Cache) error{
		"pull": func(c linuxkit.Cache) error { return c.Pull(t.Context(), host+"/big:1", "") },
		"import": func(c linuxkit.Cache) error {
			_, _, err := c.Import(t.Context(), bytes.NewReader(must(os.ReadFile(l.Archive()))))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := linuxkit.Cache{Dir: t.TempDir(), Limits: image.Limits{Bytes: 1 << 19}}
			if err := os.MkdirAll(c.Dir+"/blobs/sha256", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := bring(c); err == nil || !strings.Contains(err.Error(), "more than 524288 bytes for the cache") {
				t.Errorf("%v, want that it is more than the limit", err)
			}
			if n := largest(c); n > 1<<19 {
				t.Errorf("a blob of %d bytes was written", n)
			}
			c.Limits.Bytes = 2 << 20
			if err := bring(c); err != nil {
				t.Error(err)
			}
		})
	}
}
