package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// engines are the Docker engines of the tests. Slow tests add Debian 13's.
var engines = []engine{
	{"machine", func(t *testing.T, _ string) string {
		require.Docker(t)
		return os.Getenv("DOCKER_HOST")
	}, true},
}

type engine struct {
	name string
	host func(t *testing.T, root string) string // a DOCKER_HOST
	// it reaches a registry of the test: the engines of slow tests have their own network
	push bool
}

// copies puts the image of a docker save archive into a registry and into an OCI archive, with another
// program's code, and returns their references.
func copies(t *testing.T, saved, registry string) []string {
	t.Helper()
	img, err := tarball.ImageFromPath(saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := registry + "/neb-test/copy:3"
	if err := remote.Write(must(name.ParseReference(ref)), img); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := must(layout.Write(dir, empty.Index)).AppendImage(img); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "copy.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []string{ref, "oci:" + dir, "oci-archive:" + archive}
}

// TestEngines makes images with docker import and docker build, and compares what comes from the engine, from
// docker save, from a registry, where the engine reaches it pushed by itself, and from an OCI archive.
func TestEngines(t *testing.T) {
	// t.TempDir insists on removing what an engine may still mount
	root, err := os.MkdirTemp("", "neb-engine26-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for _, engine := range engines {
		t.Run(engine.name, func(t *testing.T) {
			host := engine.host(t, root)
			if host != "" {
				t.Setenv("DOCKER_HOST", host)
			}
			docker := func(stdin []byte, args ...string) string {
				t.Helper()
				cmd := exec.Command("docker", args...)
				cmd.Stdin = bytes.NewReader(stdin)
				cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return strings.TrimSpace(string(out))
			}
			version := docker(nil, "version", "--format", "{{.Server.Version}}")
			report.Linef(t, "Docker engine %s", version)
			if named, _, _ := strings.Cut(engine.name, ","); named != "machine" &&
				!strings.HasPrefix(version, named+".") {
				t.Fatalf("the engine is %s, expected %s", version, named)
			}
			registry := serve(t)
			base, built := "neb-test-base:1", registry+"/neb-test/built:2"
			docker(Layer(t, some[0]...), "import", "-", base)
			t.Cleanup(func() { exec.Command("docker", "rmi", "-f", base, built).Run() })
			dir := t.TempDir()
			for name, content := range map[string]string{
				"Dockerfile": "FROM " + base + "\nCOPY a /d/a\nCOPY b /d/b\nCOPY a /bin/app\nENV X=y\nCMD " +
					"[\"/bin/app\"]\n", "a": "one", "b": strings.Repeat("two", 100_000),
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			docker(nil, "build", "-q", "-t", built, dir)
			saved := filepath.Join(dir, "saved.tar")
			docker(nil, "save", "-o", saved, built)
			id := docker(nil, "image", "inspect", "--format", "{{.Id}}", built)

			refs := append([]string{"docker-daemon:" + built, "docker-daemon:" + id, "docker-archive:" +
				saved}, copies(t, saved, registry)...)
			if engine.push {
				docker(nil, "push", "-q", built)
				refs = append(refs, built)
			}
			var first, config string
			for _, ref := range refs {
				img, err := image.Open(t.Context(), ref, image.Options{Arch: "x86_64", TempDir: dir})
				if err != nil {
					t.Errorf("%s: %v", ref, err)
					continue
				}
				if config == "" {
					// Engines that keep images in containerd call an image by its manifest.
					if config = img.ConfigDigest(); config != id && img.ManifestDigest() != id {
						t.Errorf("%s: configuration %s and manifest %s, the engine calls it %s", ref, config,
							img.ManifestDigest(), id)
					}
				}
				if img.ConfigDigest() != config || strings.Join(img.Config().Config.Cmd, " ") != "/bin/app" {
					t.Errorf("%s: configuration %s with the command %q, want %s", ref, img.ConfigDigest(),
						img.Config().Config.Cmd, config)
				}
				img.Close()
				b, err := ramdisk(t, ref, "", image.Ramdisk{})
				if err != nil {
					t.Errorf("%s: %v", ref, err)
					continue
				}
				sum := fmt.Sprintf("%x", sha256.Sum256(b))
				if first == "" {
					first = sum
					text := strings.Join(List(t, b), "\n")
					for _, want := range []string{`bin/app f 644 0:0 "one"`, `d/a f 644 0:0 "one"`, `etc/passwd f 644 0:0`} {
						if !strings.Contains(text, want) {
							t.Errorf("there is no %s in\n%s", want, text)
						}
					}
				}
				if sum != first {
					t.Errorf("%s: the ramdisk differs from the engine's", ref)
				}
			}
			// A name without a tag is latest, even if the repository has others.
			docker(nil, "tag", built, "neb-test-tags:latest")
			docker(nil, "tag", base, "neb-test-tags:other")
			t.Cleanup(func() {
				exec.Command("docker", "rmi", "-f", "neb-test-tags:latest", "neb-test-tags:other").Run()
			})
			img, err := image.Open(t.Context(), "docker-daemon:neb-test-tags", image.Options{Arch: "x86_64",
				TempDir: dir})
			if err != nil || img.ConfigDigest() != id && img.ManifestDigest() != id {
				t.Errorf("neb-test-tags: %v", err)
			}
			if err == nil {
				img.Close()
			}
			for ref, want := range map[string]string{"neb-test-none:1": "no such image",
				"NEB": "answered 400", "sha256:" + strings.Repeat("0", 64): "no such image"} {
				if _, err := image.Open(t.Context(), "docker-daemon:"+ref,
					image.Options{Arch: "x86_64"}); err == nil ||
					!strings.Contains(strings.ToLower(err.Error()), want) {
					t.Errorf("%s: %v, want %q", ref, err, want)
				}
			}
			if _, err := image.Open(t.Context(), "docker-daemon:"+built,
				image.Options{Arch: "aarch64"}); err == nil || !strings.Contains(err.Error(), "arm64") {
				t.Errorf("for another architecture: %v", err)
			}
		})
	}
}

// TestFindEngine goes all ways to an engine, which here is a server that knows one image.
func TestFindEngine(t *testing.T) {
	layer := Layer(t, File("a", "1"))
	saved, err := os.ReadFile(DockerSave(t, "amd64", "x:1", [][]byte{layer}))
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/images/x:1/json":
			fmt.Fprint(w, `{"RepoTags":["x:1"],"Os":"linux","Architecture":"amd64"}`)
		case "/images/x:1/get":
			w.Write(saved)
		case "/images/huge/json":
			w.Write(bytes.Repeat([]byte(" "), 9<<20))
		case "/images/deep/json":
			w.Write(bytes.Repeat([]byte(`{"RepoTags":`), 20_000))
		case "/images/angry/json":
			w.WriteHeader(http.StatusInternalServerError)
			w.Write(bytes.Repeat([]byte("no "), 1<<20))
		case "/images/cut/json":
			fmt.Fprint(w, `{}`)
		case "/images/cut/get":
			w.Write(saved[:len(saved)/2])
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such image"}`)
		}
	})
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := &http.Server{Handler: handler}
	go unix.Serve(listener)
	t.Cleanup(func() { unix.Close() })
	tcp, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(tcp.Close)
	t.Cleanup(secure.Close)

	config := t.TempDir()
	addContext := func(name, host string, skip bool) {
		t.Helper()
		id := sha256.Sum256([]byte(name))
		dir := filepath.Join(config, "contexts", "meta", hex.EncodeToString(id[:]))
		meta, err := json.Marshal(map[string]any{"Name": name,
			"Endpoints": map[string]any{"docker": map[string]any{"Host": host, "SkipTLSVerify": skip}}})
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "meta.json"), meta, 0o644)
		}
		if err == nil && skip {
			err = os.MkdirAll(filepath.Join(config, "contexts", "tls", hex.EncodeToString(id[:]), "docker"),
				0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	addContext("local", "unix://"+socket, false)
	addContext("secure", strings.Replace(secure.URL, "https", "tcp", 1), true)
	addContext("far", "ssh://me@host.example", false)
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"currentContext":"local"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		ref  string
		want string // "" is that it works
	}{
		{"current context", nil, "x:1", ""},
		{"DOCKER_CONTEXT", map[string]string{"DOCKER_CONTEXT": "secure"}, "x:1", ""},
		{"DOCKER_HOST unix", map[string]string{"DOCKER_HOST": "unix://" + socket, "DOCKER_CONTEXT": "none"},
			"x:1", ""},
		{"DOCKER_HOST tcp", map[string]string{"DOCKER_HOST": strings.Replace(tcp.URL, "http", "tcp", 1)},
			"x:1", ""},
		{"DOCKER_HOST with TLS", map[string]string{"DOCKER_HOST": strings.Replace(secure.URL, "https", "tcp",
			1), "DOCKER_TLS": "1"}, "x:1", ""},
		{"an unknown certificate", map[string]string{"DOCKER_HOST": strings.Replace(secure.URL, "https",
			"tcp", 1), "DOCKER_TLS_VERIFY": "1"}, "x:1", "certificate"},
		{"ssh", map[string]string{"DOCKER_CONTEXT": "far"}, "x:1", "unsupported scheme ssh://"},
		{"no such context", map[string]string{"DOCKER_CONTEXT": "none"}, "x:1", "docker context none"},
		{"no listener", map[string]string{"DOCKER_HOST": "unix://" + socket + ".no"}, "x:1",
			"no Docker engine answers at unix://"},
		{"no such image", nil, "y:1", "no such image"},
		{"a stream that ends early", nil, "cut", "unexpected EOF"},
		{"a huge answer", nil, "huge", "larger than 4194304 bytes"},
		{"a deep answer", nil, "deep", "exceeded max depth"},
		{"a long complaint", nil, "angry", "answered 500 Internal Server Error: no no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY",
				"DOCKER_CERT_PATH"} {
				t.Setenv(name, c.env[name])
			}
			t.Setenv("DOCKER_CONFIG", config)
			img, err := image.Open(t.Context(), "docker-daemon:"+c.ref, image.Options{Arch: "x86_64",
				TempDir: t.TempDir()})
			if err == nil {
				defer img.Close()
			}
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			case err != nil && len(err.Error()) > 8<<10:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}
