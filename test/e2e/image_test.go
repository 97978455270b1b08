package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// entry is a file of a test image.
type entry struct {
	name string
	mode int64
	body []byte
}

// guestImage is a container image for x86_64 that holds the guest program and files, and is configured by
// config.
func guestImage(t testing.TB, config v1.Config, files ...entry) v1.Image {
	t.Helper()
	return guestImageFor(t, "amd64", guestPath, config, files...)
}

func guestImageFor(t testing.TB, goarch, path string, config v1.Config, files ...entry) v1.Image {
	t.Helper()
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, e := range append([]entry{{"guest", 0o755, program}}, files...) {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.body)), Typeflag: tar.TypeReg}
		if e.body == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, packed)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = goarch, "linux", config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

// ociLayout writes image as an OCI layout and returns the reference that neb takes for it.
func ociLayout(t testing.TB, image v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	return "oci:" + dir
}

// dockerImage builds, with the Docker engine, what guestImage makes by hand, and returns the reference that
// neb takes for it. dockerfile follows "FROM scratch" and "COPY guest /guest".
func dockerImage(t testing.TB, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	text := "FROM scratch\nCOPY guest /guest\n" + dockerfile
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(guestPath, filepath.Join(dir, "guest")); err != nil {
		if out, err := exec.Command("cp", guestPath, dir).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	sum := sha256.Sum256([]byte(t.Name()))
	tag := "neb-e2e:" + hex.EncodeToString(sum[:6])
	build := exec.Command("docker", "build", "-q", "-t", tag, dir)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v\n%s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", tag).Run() })
	return tag
}

// noise is n bytes that do not compress, the same every time.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// sumLine is the line that the guest's act "sum" prints for a file.
func sumLine(name string, body []byte) string {
	return fmt.Sprintf("%s: %x %d", name, sha256.Sum256(body), len(body))
}
