package image_test

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
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// some is an image of three layers with a bit of everything.
var some = [][]Entry{
	{Dir("bin/", 0o755), File("bin/app", strings.Repeat("code", 100_000)), Dir("etc/", 0o755),
		File("etc/passwd", "root:x:0:0::/:/bin/sh\n"), File("old", "x")},
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

// TestSameFromEverySource makes the ramdisk of one image from everywhere it can be; only a Docker engine is
// missing here.
func TestSameFromEverySource(t *testing.T) {
	all := Layers(t, some...)
	host := serve(t)
	plain, packed := NewLayout(t), NewLayout(t)
	plain.Name(plain.Image("amd64", all, Plain), "some:1")
	packed.Name(packed.Image("amd64", all, Gzip, Zstd), "some:1")
	both := NewLayout(t)
	two := both.Image("arm64", Layers(t, some[:1]...), Gzip)
	two.Platform = map[string]string{"os": "linux", "architecture": "arm64", "variant": "v8"}
	one := both.Image("amd64", all, Gzip)
	one.Platform = map[string]string{"os": "linux", "architecture": "amd64"}
	attestation := both.Manifest(both.JSON("application/vnd.oci.image.config.v1+json", map[string]any{}), nil)
	attestation.Platform = map[string]string{"os": "unknown", "architecture": "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	const index = "application/vnd.oci.image.index.v1+json"
	both.Name(both.JSON(index, map[string]any{"schemaVersion": 2, "mediaType": index,
		"manifests": []Descriptor{two, one, attestation}}), "")
	push(t, packed.Dir(), host+"/dir/some:1")
	push(t, both.Dir(), host+"/both:2")
	image1, err := remote.Get(must(name.ParseReference(host + "/dir/some:1")))
	if err != nil {
		t.Fatal(err)
	}
	gz, x := filepath.Join(t.TempDir(), "saved.tar.gz"), filepath.Join(t.TempDir(), "saved.tar.xz")
	saved := DockerSave(t, "amd64", "some:1", all)
	raw, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	for name, way := range map[string]Compression{gz: Gzip, x: Xz} {
		if err := os.WriteFile(name, way.Pack(t, raw), 0o644); err != nil {
			t.Fatal(err)
		}
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
		"docker-archive:" + x,
		host + "/dir/some:1",
		"docker://" + host + "/dir/some@" + image1.Digest.String(),
		host + "/both:2",
	} {
		b, err := ramdisk(t, ref, "rootfs/", image.Ramdisk{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if first == "" {
			first = sum
			if want := `rootfs/bin/tool f 644 0:0 "2"`; !slices.Contains(List(t, b), want) {
				t.Errorf("missing %s", want)
			}
		}
		if sum != first {
			t.Errorf("%s: the ramdisk differs from the first", ref)
		}
	}
}

// TestBesideAnImage has what tools store beside an image in a layout or an index, each without a platform.
func TestBesideAnImage(t *testing.T) {
	all := Layers(t, some...)
	const (
		manifest = "application/vnd.oci.image.manifest.v1+json"
		config   = "application/vnd.oci.image.config.v1+json"
		index    = "application/vnd.oci.image.index.v1+json"
		signed   = "application/vnd.dev.cosign.simplesigning.v1+json"
	)
	for _, c := range []struct {
		name     string
		manifest map[string]any // beside the image's
		artifact string         // type in the descriptor
		layer    string         // media type
	}{
		{"signature of cosign 2", nil, "", signed},
		{"attestation of cosign 2", nil, "", "application/vnd.dsse.envelope.v1+json"},
		{"bill of materials", nil, "", "text/spdx+json"},
		{"signature by its type", map[string]any{
			"artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"}, "", string(Gzip)},
		{"signature by its subject", map[string]any{"subject": map[string]any{"mediaType": manifest}}, "",
			string(Gzip)},
		{"signature by its descriptor", nil, "application/vnd.dev.sigstore.bundle.v0.3+json", string(Gzip)},
		{"image with the type of images", nil, config, string(Gzip)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, nested := range []bool{false, true} {
				l := NewLayout(t)
				img := l.Image("amd64", all, Gzip)
				img.ArtifactType = config
				m := map[string]any{"schemaVersion": 2, "mediaType": manifest,
					"config": l.JSON(config, map[string]any{}),
					"layers": []Descriptor{l.Blob(c.layer, []byte("{}"))}}
				for k, v := range c.manifest {
					m[k] = v
				}
				beside := l.JSON(manifest, m)
				beside.ArtifactType = c.artifact
				both := []Descriptor{beside, img}
				if nested {
					both = []Descriptor{l.JSON(index, map[string]any{"schemaVersion": 2, "mediaType": index,
						"manifests": both})}
				}
				for _, d := range both {
					l.Name(d, "")
				}
				opened, err := image.Open(t.Context(), "oci:"+l.Dir(), image.Options{Arch: "x86_64"})
				if want := "found 2 images without a platform"; c.artifact == config {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want %q", err, want)
					}
				} else if err != nil {
					t.Error(err)
				} else {
					if opened.ManifestDigest() != img.Digest {
						t.Errorf("opened %s, want %s", opened.ManifestDigest(), img.Digest)
					}
					opened.Close()
				}
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestOpenErrors(t *testing.T) {
	all := Layers(t, some...)
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
	v1schema.Name(v1schema.JSON("application/vnd.docker.distribution.manifest.v1+json",
		map[string]any{"schemaVersion": 1}), "")
	encrypted := NewLayout(t)
	encrypted.Name(encrypted.Manifest(encrypted.JSON("c", Config("amd64", all[:1])),
		[]Descriptor{encrypted.Blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", []byte("x"))}),
		"")
	empty := t.TempDir()
	for _, c := range []struct{ ref, want string }{
		{"oci:" + l.Dir(), "found 2 images without a platform, expected one: name one of them (a:1, b:1)"},
		{"oci:" + l.Dir() + ":c:1", "no image c:1: found a:1, b:1"},
		{"oci:" + arm.Dir(), "wrong platform: found linux/arm64, expected linux/amd64"},
		{host + "/arm:1", "wrong platform: found linux/arm64, expected linux/amd64"},
		{"oci-archive:" + indexed.Archive(), "no image for linux/amd64: found linux/arm64"},
		{"oci:" + loop.Dir(), "nested more than 3 deep"},
		{"oci:" + fewer.Dir(), "found 0 layers, expected 3"},
		{"oci:" + huge.Dir(), "larger than 4194304 bytes"},
		{"oci:" + hugeConfig.Dir(), "larger than 4194304 bytes"},
		{"oci:" + deepConfig.Dir(), "exceeded max depth"},
		{"oci:" + changed.Dir(), "damaged or changed"},
		{"oci:" + gone.Dir(), "no such file"},
		{"oci:" + evil.Dir(), "non-hex character"},
		{"oci:" + v1schema.Dir(), "schema version 1"},
		{"oci:" + encrypted.Dir(), "expected a tar archive"},
		{"oci:" + empty, "expected an OCI layout or"},
		{"oci:" + empty + "/none", "no such file"},
		{"docker-archive:" + DockerSave(t, "arm64", "x:1", all), "wrong platform: found linux/arm64"},
		{"docker-archive:" + DockerSave(t, "amd64", "x:1", all) + ":y:1", `found 1 images, none of them "y:1": x:1`},
		{"docker-archive:" + os.Args[0], "tar"},
		{"docker-archive:" + Archive(t, map[string][]byte{strings.Repeat("a/", 600) + "x": nil}),
			"name or link is longer than 1024 bytes"},
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
	if _, err := image.Open(t.Context(), "x", image.Options{Arch: "amd64"}); err == nil ||
		!strings.Contains(err.Error(), "x86_64 or aarch64") {
		t.Errorf("architecture amd64: %v", err)
	}
}

// TestRegistryWithWrongBytes serves blobs in which a bit is changed.
func TestRegistryWithWrongBytes(t *testing.T) {
	honest := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	change := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !change || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
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
	l.Name(l.Image("amd64", Layers(t, some...), Gzip), "")
	push(t, l.Dir(), ref)
	img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	change = true
	if err := newTree(t, image.Limits{}).AddImage(t.Context(), img, ""); err == nil ||
		!strings.Contains(err.Error(), "layer ") {
		t.Errorf("wrong layers: got %v, want the layer's error", err)
	}
	if _, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64"}); err == nil ||
		!strings.Contains(err.Error(), "configuration sha256:") {
		t.Errorf("wrong configuration: got %v, want the configuration's error", err)
	}
}

// TestCredentials opens an image of a registry that accepts only the user of a credential helper.
func TestCredentials(t *testing.T) {
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	config, bin := t.TempDir(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, content := range map[string]string{
		config + "/config.json": fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host),
		bin + "/docker-credential-test": "#!/bin/sh\nread host\necho " +
			"'{\"ServerURL\":\"'$host'\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n",
		bin +
			"/docker-credential-stranger": "#!/bin/sh\necho '{\"Username\":\"you\",\"Secret\":\"guess\"}'\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := NewLayout(t)
	l.Name(l.Image("amd64", Layers(t, some...), Gzip), "")
	index := must(layout.ImageIndexFromPath(l.Dir()))
	img := must(index.Image(must(index.IndexManifest()).Manifests[0].Digest))
	if err := remote.Write(must(name.ParseReference(host+"/private:1")), img,
		remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	open := func() error {
		img, err := image.Open(t.Context(), host+"/private:1", image.Options{Arch: "x86_64"})
		if err == nil {
			err = newTree(t, image.Limits{}).AddImage(t.Context(), img, "")
		}
		return err
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"a helper that does not know": fmt.Sprintf(`{"credHelpers":{%q:"stranger"}}`, host), "nothing": "{}"} {
		if err := os.WriteFile(config+"/config.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := open(); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v, want 401", name, err)
		}
	}
}
