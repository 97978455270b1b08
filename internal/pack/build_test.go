package pack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// start is a command for trees that are not images.
var start = pack.Overrides{Cmd: []string{"/bin/hello"}}

// someTree is a directory with a program in it.
func someTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/hello"), []byte("hello, program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// anything allows every finding about the programs of these tests, which are no programs.
func anything() (codes []preflight.Code) {
	for _, kind := range preflight.Codes {
		codes = append(codes, kind.Code)
	}
	return codes
}

// buildFile builds and opens a file.
func buildFile(t testing.TB, b *pack.Build) *eif.File {
	t.Helper()
	b.Allow = anything()
	out := enclaves.TempFile(t)
	result, err := b.To(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := eif.Open(out, result.Size)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := f.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if pass.PCR0 != result.PCR0 || pass.PCR1 != result.PCR1 || pass.PCR2 != result.PCR2 || pass.CRC != f.CRC {
		t.Errorf("the file measures %+v, and the build said %+v", pass.Measurements, result.Measurements)
	}
	return f
}

func ramdisk(t testing.TB, f *eif.File, n int) []enclaves.Entry {
	t.Helper()
	content, err := io.ReadAll(f.Content(f.All(eif.Ramdisk)[n]))
	if err != nil {
		t.Fatal(err)
	}
	return enclaves.ReadCPIO(t, content)
}

// tarLayer is a layer with some files.
func tarLayer(t testing.TB, headers ...*tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h := *h
		content := "content of " + h.Name
		if strings.Contains(h.Name, ".wh.") {
			content = ""
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, content)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

var defaultConfig = v1.Config{
	Entrypoint: []string{"/bin/server"}, Cmd: []string{"-v", "two words"}, Env: []string{"PATH=/bin", "A=b"},
	WorkingDir: "/srv", User: "1000:1000", StopSignal: "SIGINT",
	Labels: map[string]string{"org.opencontainers.image.title": "server"},
}

func newImage(t testing.TB, config v1.Config) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image,
		tarLayer(t,
			&tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
			&tar.Header{Typeflag: tar.TypeReg, Name: "bin/server", Mode: 0o4755},
			&tar.Header{Typeflag: tar.TypeReg, Name: "bin/old", Mode: 0o755},
			&tar.Header{Typeflag: tar.TypeLink, Name: "bin/link", Linkname: "bin/server"},
			&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1770}),
		tarLayer(t,
			&tar.Header{Typeflag: tar.TypeReg, Name: "bin/.wh.old"},
			&tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/resolv.conf",
				Linkname: "/run/resolvconf/resolv.conf"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = "amd64", "linux", config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// tag is the image's name in a Docker engine that others may use at the same time.
var tag = fmt.Sprintf("neb-test/server:%d", os.Getpid())

// archiveOf is an image as docker save writes it.
func archiveOf(t testing.TB, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

func openImage(t testing.TB, ref string) *image.Image {
	t.Helper()
	img, err := image.Open(t.Context(), ref, image.Options{Arch: eif.X86_64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func TestBuildImage(t *testing.T) {
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	f := buildFile(t, &pack.Build{
		Arch: eif.X86_64, Blobs: blobs, Image: openImage(t, "docker-archive:"+
			archiveOf(t, newImage(t, defaultConfig))),
		Metadata: json.RawMessage(`{"Team":"x"}`), Tool: "1",
	})
	var order []string
	for _, s := range f.Sections {
		order = append(order, s.Type.String())
	}
	if got := strings.Join(order, " "); got != "kernel cmdline metadata ramdisk ramdisk" {
		t.Errorf("the sections are %s", got)
	}
	if cmdline, err := f.Cmdline(); err != nil || cmdline != "reboot=k panic=30 console=ttyS0" {
		t.Errorf("the command line is %q (%v)", cmdline, err)
	}

	first := ramdisk(t, f, 0)
	for name, mode := range map[string]uint64{"dev": 0o40755, "init": 0o100755, "nsm.ko": 0o100644,
		"neb": 0o40755, "neb/modules": 0o100644} {
		if e := enclaves.Find(first, name); e == nil || e.Mode != mode {
			t.Errorf("the first ramdisk's %s: %+v", name, e)
		}
	}
	if modules, err := contract.DecodeModules(string(enclaves.Find(first,
		"neb/modules").Content)); err != nil || modules.Open ||
		!slices.Equal(modules.Paths, []string{"/nsm.ko"}) {
		t.Errorf("modules %+v (%v)", modules, err)
	}

	second := ramdisk(t, f, 1)
	d, err := contract.Decode(string(enclaves.Find(second, "neb/app").Content))
	if err != nil {
		t.Fatal(err)
	}
	want := contract.Description{
		Entrypoint: []string{"/bin/server"}, Cmd: []string{"-v", "two words"},
		Env:        []string{"PATH=/bin", "A=b"},
		WorkingDir: "/srv", User: "1000:1000", StopSignal: "SIGINT", Complete: true,
	}
	if fmt.Sprintf("%+v", d) != fmt.Sprintf("%+v", want) {
		t.Errorf("the description is %+v, want %+v", d, want)
	}
	for name, content := range map[string]string{
		"cmd": "/bin/server\n-v\ntwo words\n", "env": "PATH=/bin\nA=b\n",
		"rootfs/bin/link":        "content of bin/server",
		"rootfs/etc/resolv.conf": "/run/resolvconf/resolv.conf", "neb/complete": contract.Complete,
	} {
		if e := enclaves.Find(second, name); e == nil || string(e.Content) != content {
			t.Errorf("the second ramdisk's %s: %+v", name, e)
		}
	}
	for name, mode := range map[string]uint64{
		"rootfs/bin/server": 0o104755, "rootfs/tmp": 0o41770, "rootfs/proc": 0o40755, "rootfs/dev": 0o40755,
		"rootfs/sys": 0o40755, "rootfs/run": 0o40755,
	} {
		if e := enclaves.Find(second, name); e == nil || e.Mode != mode {
			t.Errorf("the second ramdisk's %s: %+v, want mode %o", name, e, mode)
		}
	}
	if enclaves.Find(second, "rootfs/bin/old") != nil {
		t.Error("a file that the image removes is in the ramdisk")
	}
	if e := enclaves.Find(second, "rootfs/bin/link"); e == nil || e.Links != 2 {
		t.Errorf("the hard link: %+v", e)
	}
	if last := second[len(second)-1].Name; last != "neb/complete" {
		t.Errorf("the last entry is %s", last)
	}
	seen := map[string]bool{}
	for _, e := range second {
		if dir := filepath.Dir(e.Name); dir != "." && !seen[dir] {
			t.Errorf("%s comes before its directory", e.Name)
		}
		if seen[e.Name] {
			t.Errorf("%s comes twice", e.Name)
		}
		seen[e.Name] = true
	}

	m, err := f.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := newImage(t, defaultConfig).ConfigName()
	if m.ImageName != "server" || m.ImageVersion != digest.Hex || string(m.CustomMetadata) != `{"Team":"x"}` {
		t.Errorf("metadata %+v, want version %s", m, digest.Hex)
	}
	if want := (eif.BuildMetadata{BuildTime: "1970-01-01T00:00:00+00:00", BuildTool: "neb",
		BuildToolVersion: "1", OperatingSystem: "Linux", KernelVersion: release}); m.BuildMetadata != want {
		t.Errorf("metadata %+v", m.BuildMetadata)
	}
	if !bytes.Contains(m.DockerInfo, []byte(`"Architecture":"amd64"`)) || !bytes.Contains(m.DockerInfo, []byte(digest.String())) {
		t.Errorf("DockerInfo %s", m.DockerInfo)
	}
}

// sumOf is the SHA-256 of a build.
func sumOf(t testing.TB, b *pack.Build) string {
	b.Allow = anything()
	t.Helper()
	out := enclaves.TempFile(t)
	if _, err := b.To(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, out); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestSameFromEverySource builds one image from an archive, a layout and a registry, twice each, with another
// clock between: one file.
func TestSameFromEverySource(t *testing.T) {
	img := newImage(t, defaultConfig)
	archive := archiveOf(t, img)
	dir := t.TempDir()
	if path, err := layout.Write(dir, empty.Index); err != nil {
		t.Fatal(err)
	} else if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/server:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	sums := map[string][]string{}
	for _, source := range []string{"docker-archive:" + archive, "oci:" + dir, ref.String(), "oci:" + dir} {
		b := &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
			Image: openImage(t, source)}
		sum := sumOf(t, b)
		sums[sum] = append(sums[sum], source)
	}
	if len(sums) != 1 {
		t.Errorf("different files: %v", sums)
	}
}

// TestSameFromDocker builds an image from a Docker engine and from its archive: one file.
func TestSameFromDocker(t *testing.T) {
	require.Docker(t)
	archive := archiveOf(t, newImage(t, defaultConfig))
	if out, err := exec.Command("docker", "load", "--input", archive).CombinedOutput(); err != nil {
		t.Fatalf("docker load: %v: %s", err, out)
	}
	defer exec.Command("docker", "image", "rm", tag).Run()
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	a := sumOf(t, &pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: openImage(t, "docker-daemon:"+tag)})
	b := sumOf(t, &pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: openImage(t, "docker-archive:"+archive)})
	if a != b {
		t.Errorf("the engine's image makes %s, and the archive %s", a, b)
	}
}

func TestEpoch(t *testing.T) {
	epoch := int64(1_600_000_000)
	tree := someTree(t)
	f := buildFile(t, &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil),
		eif.X86_64), RootFS: tree, Overrides: start, Epoch: &epoch})
	m, err := f.Metadata()
	if err != nil || m.BuildMetadata.BuildTime != "2020-09-13T12:26:40+00:00" {
		t.Errorf("metadata %+v (%v)", m, err)
	}
}

func TestOverrides(t *testing.T) {
	root, empty, term := "/", "", "SIGTERM"
	for _, test := range []struct {
		name string
		o    pack.Overrides
		want contract.Description
	}{
		{"nothing", pack.Overrides{}, contract.Description{Entrypoint: []string{"/bin/server"},
			Cmd: []string{"-v", "two words"}, Env: []string{"PATH=/bin", "A=b"}, WorkingDir: "/srv",
			User: "1000:1000", StopSignal: "SIGINT"}},
		{"the entrypoint takes the arguments with it", pack.Overrides{Entrypoint: []string{"/x"}},
			contract.Description{Entrypoint: []string{"/x"}, Env: []string{"PATH=/bin", "A=b"},
				WorkingDir: "/srv", User: "1000:1000", StopSignal: "SIGINT"}},
		{"arguments", pack.Overrides{Cmd: []string{"-q"}},
			contract.Description{Entrypoint: []string{"/bin/server"}, Cmd: []string{"-q"},
				Env: []string{"PATH=/bin", "A=b"}, WorkingDir: "/srv", User: "1000:1000",
				StopSignal: "SIGINT"}},
		{"what images cannot say", pack.Overrides{StopSignal: &term, Hostname: "h", LoopbackDown: true,
			NSMOwner: "a", NSMMode: 0o660, ExitReport: 1, Network: true, Egress: []string{"imds"},
			Ingress: []string{"1"}}, contract.Description{
			Entrypoint: []string{"/bin/server"}, Cmd: []string{"-v", "two words"},
			Env: []string{"PATH=/bin", "A=b"}, WorkingDir: "/srv", User: "1000:1000",
			StopSignal: "SIGTERM", Hostname: "h", LoopbackDown: true, NSMOwner: "a", NSMMode: 0o660,
			ExitReport: 1, Network: true, Egress: []string{"imds"}, Ingress: []string{"1"},
		}},
		{"the rest", pack.Overrides{Env: []string{"A=c", "N="}, WorkingDir: &root, User: &empty},
			contract.Description{Entrypoint: []string{"/bin/server"}, Cmd: []string{"-v", "two words"},
				Env: []string{"PATH=/bin", "A=c", "N="}, WorkingDir: "/", StopSignal: "SIGINT"}},
	} {
		got := pack.Application(defaultConfig, test.o)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	if defaultConfig.Env[1] != "A=b" {
		t.Error("an override changed the image's configuration")
	}
}

// TestModules packs modules besides nsm.ko.
func TestModules(t *testing.T) {
	dir := t.TempDir()
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	z.Write(nsmModule(eif.X86_64, release))
	z.Close()
	for name, content := range map[string][]byte{
		"b.ko": nsmModule(eif.X86_64, release), "a.ko.gz": compressed.Bytes(),
		"again/b.ko": nsmModule(eif.X86_64, release),
		"old.ko":     nsmModule(eif.X86_64, "6.1.0"), "no.ko": []byte("module"),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	less := pack.BlobsIn(writeBlobs(t, eif.X86_64,
		map[string][]byte{"init": initProgram(eif.X86_64, "", "/cmd /env")}), eif.X86_64)
	build := func(blobs pack.Blobs, names ...string) *pack.Build {
		b := &pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: someTree(t), Overrides: start,
			ModulesOpen: true}
		for _, name := range names {
			b.Modules = append(b.Modules, filepath.Join(dir, name))
		}
		return b
	}
	f := buildFile(t, build(blobs, "b.ko", "a.ko.gz"))
	first := ramdisk(t, f, 0)
	want := []string{"/nsm.ko", "/neb/lib/b.ko", "/neb/lib/a.ko.gz"}
	if m, err := contract.DecodeModules(string(enclaves.Find(first, "neb/modules").Content)); err != nil ||
		!m.Open || !slices.Equal(m.Paths, want) {
		t.Errorf("modules %+v (%v), want %v, open", m, err, want)
	}
	if e := enclaves.Find(first, "neb/lib/a.ko.gz"); e == nil || !bytes.Equal(e.Content, compressed.Bytes()) {
		t.Errorf("the compressed module: %+v", e)
	}
	for _, e := range first {
		if !contract.Belongs("/"+e.Name, true) {
			t.Errorf("%s is outside the contract", e.Name)
		}
	}
	for _, test := range []struct {
		build *pack.Build
		want  string
	}{
		{build(blobs, "b.ko", "again/b.ko"), "two modules have the name b.ko"},
		{build(blobs, "old.ko"), "built for kernel 6.1.0"},
		{build(blobs, "no.ko"), "not a kernel module"},
		{build(blobs, "none.ko"), "no such file"},
		{build(less, "b.ko"), "does not read /neb/modules"},
	} {
		if _, err := test.build.To(t.Context(), enclaves.TempFile(t)); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: error %v, want one with %q", test.build.Modules, err, test.want)
		}
	}
}

// TestInitThatKnowsLess packs for an init that reads /cmd and /env alone.
func TestInitThatKnowsLess(t *testing.T) {
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64,
		map[string][]byte{"init": initProgram(eif.X86_64, "", "/cmd /env")}), eif.X86_64)
	b := &pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: someTree(t), Overrides: start}
	f := buildFile(t, b)
	if enclaves.Find(ramdisk(t, f, 0), "neb/modules") != nil {
		t.Error("an init that does not read neb/modules gets one")
	}
	b.Overrides = pack.Overrides{Cmd: []string{"/bin/hello", "two\nlines"}}
	if _, err := b.To(t.Context(), enclaves.TempFile(t)); err == nil ||
		!strings.Contains(err.Error(), "line break") {
		t.Errorf("an argument that /cmd cannot hold: %v", err)
	}
	b.Overrides = pack.Overrides{Cmd: []string{"/bin/hello"}, ExitReport: 9001}
	if _, err := b.To(t.Context(), enclaves.TempFile(t)); err == nil ||
		!strings.Contains(err.Error(), "use neb's init") {
		t.Errorf("an exit report that init knows nothing of: %v", err)
	}
	var warnings []string
	buildFile(t, &pack.Build{
		Arch: eif.X86_64, Blobs: blobs, Image: openImage(t, "docker-archive:"+
			archiveOf(t, newImage(t, defaultConfig))),
		Overrides: pack.Overrides{Cmd: []string{"-v"}}, Warn: func(line string) {
			warnings = append(warnings, line)
		},
	})
	for _, want := range []string{"WORKDIR /srv", "USER 1000:1000", "STOPSIGNAL SIGINT"} {
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("the warnings %q do not name %s", warnings, want)
		}
	}
	b.Overrides, b.RootFormat, b.ErofsTools = start, pack.Erofs, &fakeMkfs{dir: t.TempDir()}
	if _, err := b.To(t.Context(), enclaves.TempFile(t)); err == nil ||
		!strings.Contains(err.Error(), "cannot mount an erofs root") {
		t.Errorf("an erofs root: %v", err)
	}
	b = &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		RootFS: someTree(t), Overrides: pack.Overrides{Cmd: []string{"/bin/hello", "two\nlines"}}}
	if second := ramdisk(t, buildFile(t, b), 1); enclaves.Find(second, "cmd") != nil ||
		enclaves.Find(second, "neb/app") == nil {
		t.Error("an argument with a line break is in /cmd, or nowhere")
	}
}

// fakeMkfs makes an "image" that is the archive, backwards enough to be no archive.
type fakeMkfs struct {
	dir  string
	args []string
}

func (m *fakeMkfs) Work(context.Context) (string, error) { return os.MkdirTemp(m.dir, "work-") }

func (m *fakeMkfs) Run(_ context.Context, work string, args ...string) error {
	m.args = args
	b, err := os.ReadFile(filepath.Join(work, "src/root.tar"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, "out/root.erofs"), append([]byte("EROFS"), b...), 0o644)
}

func TestErofs(t *testing.T) {
	mkfs := &fakeMkfs{dir: t.TempDir()}
	f := buildFile(t, &pack.Build{
		Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		Image:      openImage(t, "docker-archive:"+archiveOf(t, newImage(t, defaultConfig))),
		RootFormat: pack.Erofs, ErofsTools: mkfs,
	})
	second := ramdisk(t, f, 1)
	d, err := contract.Decode(string(enclaves.Find(second, "neb/app").Content))
	if err != nil || d.ErofsParts != 1 {
		t.Fatalf("%+v (%v)", d, err)
	}
	part := enclaves.Find(second, "neb/root.0")
	if part == nil || part.Mode != 0o100600 || !bytes.HasPrefix(part.Content, []byte("EROFS")) {
		t.Fatalf("part 0: %v", part)
	}
	names := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(part.Content[5:])); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[strings.TrimSuffix(h.Name, "/")] = true
	}
	if !names["bin/server"] || !names["proc"] || names["bin/old"] {
		t.Errorf("mkfs was given %v", names)
	}
	if left, _ := os.ReadDir(mkfs.dir); len(left) > 0 {
		t.Errorf("%s is left behind", left[0].Name())
	}
	for _, want := range []string{"-b4096", "-U00000000-0000-0000-0000-000000000000"} {
		if !slices.Contains(mkfs.args, want) {
			t.Errorf("mkfs.erofs is run as %v, without %s", mkfs.args, want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	silent := openImage(t, "docker-archive:"+archiveOf(t, newImage(t, v1.Config{})))
	good := openImage(t, "docker-archive:"+archiveOf(t, newImage(t, defaultConfig)))
	for _, test := range []struct {
		name  string
		build pack.Build
		want  string
	}{
		{"no command", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: silent},
			"neither an ENTRYPOINT nor a CMD"},
		{"no command for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: silent,
			NitroCLI: true}, "neither an ENTRYPOINT nor a CMD"},
		{"an empty command", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Overrides: pack.Overrides{Entrypoint: []string{"", "a"}}},
			"the first word of the command is empty"},
		{"no entrypoint as in Docker", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Overrides: pack.Overrides{Entrypoint: []string{""}}}, "neither an ENTRYPOINT nor a CMD"},
		{"no entrypoint", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Overrides: pack.Overrides{Entrypoint: []string{}}}, "neither an ENTRYPOINT nor a CMD"},
		{"an architecture that is none", pack.Build{Arch: "riscv64", Blobs: blobs, RootFS: ".",
			Overrides: start}, "riscv64"},
		{"no such tree", pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: filepath.Join(t.TempDir(),
			"nothing"), Overrides: start}, "no such file"},
		{"a variable without =", pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: someTree(t),
			Overrides: pack.Overrides{Cmd: []string{"x"}, Env: []string{"A"}}},
			"configuration of the image, or an option in its place: Env: "},
		{"metadata that are a list", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good, Metadata: json.RawMessage(`[1]`)}, "object or null"},
		{"a command line with a line break", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Cmdline: "a\nb"}, "not printable ASCII"},
		{"another form", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good, RootFormat: "zip"}, "zip"},
		{"erofs without mkfs", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			RootFormat: pack.Erofs}, "use cpio"},
		{"erofs for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			RootFormat: pack.Erofs, NitroCLI: true}, "an erofs root cannot be combined with nitro-cli"},
		{"overrides for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good, Overrides: start,
			NitroCLI: true}, "overrides of the image's configuration cannot"},
		{"a module for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Modules: []string{"a.ko"}, NitroCLI: true}, "modules besides nsm.ko cannot"},
		{"an exit report for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Overrides: pack.Overrides{ExitReport: 1}, NitroCLI: true},
			"overrides of the image's configuration cannot"},
		{"an owner that is none", pack.Build{Arch: eif.X86_64, Blobs: blobs, Image: good,
			Overrides: pack.Overrides{NSMOwner: "a/b"}}, "NSMOwner"},
		{"a tree for nitro-cli", pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: someTree(t),
			NitroCLI: true}, "use --image"},
	} {
		if _, err := test.build.To(t.Context(), enclaves.TempFile(t)); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

// TestLargeFile packs a file that a newc entry cannot hold. It is sparse, and takes no room.
func TestLargeFile(t *testing.T) {
	tree := someTree(t)
	if err := os.WriteFile(filepath.Join(tree, "large"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(tree, "large"), 4<<30); err != nil {
		t.Fatal(err)
	}
	b := &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		RootFS: tree, Overrides: start, Allow: anything()}
	if _, err := b.To(t.Context(), enclaves.TempFile(t)); err == nil ||
		!strings.Contains(err.Error(), "rootfs/large has 4294967296 bytes") ||
		!strings.Contains(err.Error(), "erofs") {
		t.Errorf("error %v", err)
	}
}

// TestFullDisk builds onto a device that is always full.
func TestFullDisk(t *testing.T) {
	out, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		require.Lacks(t, "/dev/full")
	}
	defer out.Close()
	b := &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		RootFS: someTree(t), Overrides: start, Allow: anything()}
	if _, err := b.To(t.Context(), out); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	cancel(stop)
	b := &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		RootFS: someTree(t), Overrides: start}
	if _, err := b.To(ctx, enclaves.TempFile(t)); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestOlderInit packs for an init that mounts empty file systems, and for one that fills them.
func TestOlderInit(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{"tmp/server": "x", "run/resolvconf/resolv.conf": "",
		"run/lock/pid": "1", "srv/tmp/a": "", "tmpfile": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "tmp/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	older := map[string][]byte{"init": initProgram(eif.X86_64, "", "neb-init:app1:modules1:erofs")}
	for _, c := range []struct {
		change map[string][]byte
		want   []string
	}{{nil, nil}, {older, []string{"/run/lock/pid", "/tmp/server"}}} {
		var got []string
		b := &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, c.change),
			eif.X86_64),
			RootFS: root, Overrides: start, Warn: func(line string) {
				if name, _, ok := strings.Cut(line, " is hidden by "); ok {
					got = append(got, name)
				}
			}}
		buildFile(t, b)
		if !slices.Equal(got, c.want) {
			t.Errorf("warnings of %q, want %q", got, c.want)
		}
		b.Overrides.Pid1 = true
		_, err := b.To(t.Context(), enclaves.TempFile(t))
		if refused := err != nil && strings.Contains(err.Error(), "--pid1"); refused != (c.change != nil) {
			t.Errorf("an init of which the blobs changed by %d files, with --pid1: %v", len(c.change), err)
		}
	}
}

// TestExpiredCertificate builds with a certificate outside its validity: nothing is written.
func TestExpiredCertificate(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	key, certificate := enclaves.Certificate(t, "alice", noon)
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	for at, fine := range map[time.Time]bool{noon: true, noon.Add(2 * time.Hour): false, {}: true} {
		out := enclaves.TempFile(t)
		b := &pack.Build{
			Arch: eif.X86_64, Blobs: blobs, RootFS: someTree(t), Overrides: start,
			Signer: &sign.Signer{Key: key, Certificate: certificate, At: at}, Allow: anything(),
		}
		_, err := b.To(t.Context(), out)
		info, statErr := out.Stat()
		if statErr != nil {
			t.Fatal(statErr)
		}
		if (err == nil) != fine || !fine && (!strings.Contains(err.Error(), "is valid from") ||
			info.Size() > 0) {
			t.Errorf("at %v: %v, %d bytes written", at, err, info.Size())
		}
	}
}

// An init that does not know the network would start the application without it, and without its rules.
func TestNetworkNeedsInit(t *testing.T) {
	dir := writeBlobs(t, eif.X86_64, map[string][]byte{"init": initProgram(eif.X86_64, "",
		"neb-init:app1:modules1:erofs")})
	b := pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(dir, eif.X86_64), RootFS: t.TempDir(),
		Overrides: pack.Overrides{Cmd: []string{"/x"}, Network: true}}
	_, err := b.To(t.Context(), enclaves.TempFile(t))
	if err == nil || !strings.Contains(err.Error(), "cannot make a network") {
		t.Errorf("%v, want that this init cannot make a network", err)
	}
}
