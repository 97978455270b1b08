//go:build slow

// Package docker tests the Dockerfile with a real engine: the commands in the readme of
// aws-nitro-enclaves-sdk-bootstrap must give the bytes of neb build. No image registry is used: the base
// image is made here.
package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

const root = "../.."

// base is the base image of the builds: a Debian with this machine's Go and certificates.
const base = "neb-test-base"

// client is a Docker client and its environment.
type client struct {
	path string
	env  []string
}

// classic is the client with the classic builder, Docker's default until release 23.
var classic = client{"docker", []string{"DOCKER_BUILDKIT=0"}}

// run runs a Docker command and returns its output.
func (c client) run(t *testing.T, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.path, args...)
	cmd.Stdin = stdin
	cmd.Dir = root
	cmd.Env = append(os.Environ(), c.env...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	how := "done"
	if err != nil {
		how = err.Error()
	}
	report.Linef(t, "$ %s docker %s: %s in %v", strings.Join(c.env, " "), strings.Join(args, " "), how,
		time.Since(began).Round(time.Second))
	return string(out), err
}

func (c client) must(t *testing.T, stdin io.Reader, args ...string) {
	t.Helper()
	if out, err := c.run(t, stdin, args...); err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, tail(out))
	}
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// makeBase imports the base image: a minimal Debian from the machine's mirrors. NEB_TEST_BASE_IMAGE names an
// image with Go to use instead.
func makeBase(t *testing.T) string {
	t.Helper()
	require.Docker(t)
	if image := os.Getenv("NEB_TEST_BASE_IMAGE"); image != "" {
		return image
	}
	require.Root(t)
	debootstrap := require.Command(t, "debootstrap")
	tree := filepath.Join(t.TempDir(), "base")
	args := []string{"--variant=minbase", "--include=ca-certificates", "bookworm", tree}
	if mirror := debianMirror(t); mirror != "" {
		args = append(args, mirror)
	}
	if out, err := exec.CommandContext(t.Context(), debootstrap, args...).CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, tail(string(out)))
	}
	goRoot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	script := `
		mkdir -p "$1/usr/local/go"
		cp -a "$2/." "$1/usr/local/go/"
		rm -rf "$1/usr/local/go/test" "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"
		for f in /etc/ssl/certs/ca-certificates.crt; do if [ -e $f ]; then cp -L $f "$1$f"; fi; done
		tar -C "$1" --exclude=./dev -c . | docker import \
			-c 'ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
			-c 'ENV GOTOOLCHAIN=local' - "$3"`
	imported := exec.CommandContext(t.Context(), "sh", "-euc", script,
		"sh", tree, strings.TrimSpace(string(goRoot)), base)
	if out, err := imported.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v\n%s", err, out)
	}
	t.Cleanup(func() { remove(t, base) })
	return base
}

// debianMirror returns the Debian mirror in this machine's apt configuration.
func debianMirror(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI)",
		"Codename: bookworm", "Created-By: Packages").Output()
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(out), "\n") {
		if _, uri, ok := strings.Cut(line, " "); ok &&
			strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			return uri
		}
	}
	return ""
}

func remove(t *testing.T, image string) {
	// The context of a test is canceled before its cleanup runs.
	ctx := context.WithoutCancel(t.Context())
	if out, err := exec.CommandContext(ctx, "docker", "image", "rm", "-f",
		image).CombinedOutput(); err != nil {
		t.Logf("docker image rm %s: %s", image, out)
	}
}

// arguments returns the build arguments of every build: the base image, and this machine's mirrors.
func arguments(image string) []string {
	args := []string{"--build-arg", "BASE_IMAGE=" + image}
	for _, name := range []string{"NEB_MIRROR", "GOPROXY", "GOSUMDB"} {
		if value := os.Getenv(name); value != "" {
			args = append(args, "--build-arg", name+"="+value)
		}
	}
	return args
}

// build runs `docker build -t TAG .` with arguments. The image is removed after the test.
func (c client) build(t *testing.T, image, tag string, args ...string) {
	t.Helper()
	c.must(t, nil, slices.Concat([]string{"build", "-t", tag}, arguments(image), args, []string{"."})...)
	t.Cleanup(func() { remove(t, tag) })
}

// extract copies the blobs out of an image as the readme does: create, cp, rm.
func extract(t *testing.T, tag string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "blobs")
	classic.must(t, nil, "create", "--name", "extract_"+tag, tag)
	defer classic.must(t, nil, "rm", "extract_"+tag)
	classic.must(t, nil, "cp", "extract_"+tag+":/blobs", dir)
	return dir
}

// compare compares a directory with the output of neb build here, file by file. It must hold no other files.
func compare(t *testing.T, dir, arch string, components ...string) {
	t.Helper()
	cache, err := store.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	b := &component.Builder{Store: cache, Lock: l, Source: root}
	outputs, err := b.Build(t.Context(), arch, components...)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, o := range outputs {
		for _, f := range o.Files {
			want = append(want, f.Name)
			expected, err := os.ReadFile(filepath.Join(o.Dir, f.Name))
			if err != nil {
				t.Fatal(err)
			}
			found, err := os.ReadFile(filepath.Join(dir, f.Name))
			if err != nil {
				t.Error(err)
				continue
			}
			if !bytes.Equal(found, expected) {
				t.Errorf("%s/%s from Docker differs from neb build's", arch, f.Name)
				continue
			}
			report.Linef(t, "%s/%s: the bytes of neb build, SHA-256 %s", arch, f.Name, f.SHA256)
		}
	}
	var found []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("expected %v, found %v", want, found)
	}
}

func TestDocker(t *testing.T) {
	image := makeBase(t)
	tag := func(name string) string { return fmt.Sprintf("neb-test-%s-%d", name, os.Getpid()) }

	t.Run("arguments", func(t *testing.T) {
		for _, test := range []struct{ name, argument, want string }{
			{"target", "TARGET=emulator",
				"unknown TARGET 'emulator': expected all, kernel, init or linuxkit"},
			{"architecture", "ARCH=mips", "unknown ARCH 'mips': expected x86_64, aarch64 or x86_64,aarch64"},
		} {
			args := slices.Concat([]string{"build"}, arguments(image), []string{"--build-arg", test.argument,
				"."})
			out, err := classic.run(t, nil, args...)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("%s: expected an error with %q, found %v\n%s", test.name, test.want, err, tail(out))
			}
		}
	})
	t.Run("base image without Go", func(t *testing.T) {
		bare := tag("bare")
		classic.must(t, strings.NewReader("FROM "+image+"\nENV PATH=/usr/bin:/bin\n"), "build", "-t", bare,
			"-")
		defer remove(t, bare)
		out, err := classic.run(t, nil, "build", "--build-arg", "BASE_IMAGE="+bare, ".")
		if want := "the base image has no Go in its PATH"; err == nil || !strings.Contains(out, want) {
			t.Errorf("expected an error with %q, found %v\n%s", want, err, tail(out))
		}
	})
	t.Run("no such base image", func(t *testing.T) {
		// No registry listens on this port, so the answer does not depend on this machine's network.
		out, err := classic.run(t, nil, "build", "--build-arg",
			"BASE_IMAGE=127.0.0.1:1/neb-test-nowhere:none", ".")
		if err == nil || !strings.Contains(out, "127.0.0.1:1") {
			t.Errorf("expected an error with the registry's address, found %v\n%s", err, tail(out))
		}
	})
	t.Run("no network", func(t *testing.T) {
		args := slices.Concat([]string{"build", "--no-cache", "--network", "none"}, arguments(image),
			[]string{"."})
		out, err := classic.run(t, nil, args...)
		if err == nil || !strings.Contains(out, "go mod download") || !strings.Contains(out, "dial ") {
			t.Errorf("expected the error of go mod download, found %v\n%s", err, tail(out))
		}
	})

	t.Run("BuildKit", func(t *testing.T) {
		name := tag("buildkit")
		// With one other architecture, the image holds its files without a directory, as with the builder's
		// own.
		buildKit := client{require.BuildKit(t), []string{"DOCKER_BUILDKIT=1"}}
		buildKit.build(t, image, name, "--build-arg", "TARGET=init", "--build-arg", "ARCH=aarch64")
		compare(t, extract(t, name), "aarch64", "init")
	})

	targets := func(from string, target string, archs ...string) {
		t.Run(target, func(t *testing.T) {
			name := tag(target)
			args := []string{"--build-arg", "TARGET=" + target}
			if archs == nil {
				classic.build(t, from, name, args...)
				compare(t, extract(t, name), component.Host(), target)
				return
			}
			classic.build(t, from, name, append(args, "--build-arg", "ARCH="+strings.Join(archs, ","))...)
			dir := extract(t, name)
			for _, arch := range archs {
				compare(t, filepath.Join(dir, arch), arch, target)
			}
		})
	}
	targets(image, "linuxkit")
	targets(image, "init", component.Archs...)

	// The next build compiles the only kernel of this test.
	if runtime.GOARCH != "amd64" {
		require.Lacks(t, "an x86_64 processor: the kernel's toolchain was only tried there")
	}
	if !t.Run("all", func(t *testing.T) {
		name := tag("all")
		classic.build(t, image, name)
		compare(t, extract(t, name), component.Host(), component.Names...)
	}) {
		return // the next one would fail in the same way
	}
	// TARGET=kernel starts from that build's stage without its result: the kernel must come from the stage's
	// store.
	stage, stored := tag("stage"), tag("stored")
	classic.build(t, image, stage, "--target", "build")
	classic.must(t, strings.NewReader("FROM "+stage+"\nRUN rm -r /result /blobs\n"), "build", "-t", stored,
		"-")
	t.Cleanup(func() { remove(t, stored) })
	targets(stored, "kernel")
}
