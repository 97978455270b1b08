package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// call runs the command and returns its status and what it said.
func call(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(args, streams{strings.NewReader(""), &out, &err})
	return status, out.String(), err.String()
}

func done(t testing.TB, args ...string) string {
	t.Helper()
	status, out, err := call(t, args...)
	if status != 0 {
		t.Fatalf("linuxkit %s: status %d\n%s", strings.Join(args, " "), status, err)
	}
	return out
}

// write writes a file into a directory of the test.
func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// entries lists an archive as "mode name body".
func entries(t testing.TB, r io.Reader) (all []string) {
	t.Helper()
	in := initramfs.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%o %s %s", h.Mode, h.Name, body)))
	}
}

func open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func layoutOf(t testing.TB, layers ...[]byte) string {
	t.Helper()
	l := NewLayout(t)
	l.Name(l.Image("amd64", layers, Gzip), "")
	return "oci:" + l.Dir()
}

// TestAsNitroCLICalls gives the two files that nitro-cli writes, with the flags of its old and new releases.
func TestAsNitroCLICalls(t *testing.T) {
	dir := t.TempDir()
	ref := layoutOf(t, Layer(t, Dir("bin/", 0o755), File("bin/app", "code"), Dir("tmp/", 0o1777)))
	bootstrap := write(t, dir, "a.yaml", fmt.Sprintf(`---
files:
  - path: dev
    directory: true
    mode: "0755"
  - path: init
    source: %s
    mode: "0755"
  - path: nsm.ko
    source: %s
    mode: "0755"
`, write(t, dir, "init.in", "INIT"), write(t, dir, "nsm.in", "NSM")))
	const files = `init:
  - %s
files:
  - path: rootfs/dev
    directory: true
    mode: "0755"
  - path: rootfs/run
    directory: true
    mode: "0755"
  - path: rootfs/sys
    directory: true
    mode: "0755"
  - path: rootfs/var
    directory: true
    mode: "0755"
  - path: rootfs/proc
    directory: true
    mode: "0755"
  - path: rootfs/tmp
    directory: true
    mode: "0755"
  - path: cmd
    source: %s
    mode: "0644"
  - path: env
    source: %s
    mode: "0644"
`
	rest := fmt.Sprintf(files, ref, write(t, dir, "cmd.in", "/bin/app\n"), write(t, dir, "env.in", "A=b\n"))
	customer := write(t, dir, "b.yaml", "---\nprefix: rootfs/\n"+rest)
	noPrefix := write(t, dir, "c.yaml", rest)
	for _, c := range []struct {
		name       string
		args       []string
		boot, cust string
	}{
		{"new", []string{"--name", "@", "--format", "kernel+initrd-nogz", "--no-sbom"}, bootstrap, customer},
		{"old", []string{"-name", "@", "-format", "kernel+initrd-nogz", "-prefix", "rootfs/"}, bootstrap,
			noPrefix},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := func(name string, extra ...string) []string {
				args := append([]string{"build"}, extra...)
				for _, a := range c.args {
					args = append(args, strings.Replace(a, "@", filepath.Join(dir, c.name+name), 1))
				}
				return append(args, "-arch", "amd64")
			}
			if out := done(t, append(at("bootstrap-initrd.img"), c.boot)...); out != "" {
				t.Errorf("standard output: %q", out)
			}
			got := entries(t, open(t, filepath.Join(dir, c.name+"bootstrap-initrd.img-initrd.img")))
			if want := "[40755 dev 100755 init INIT 100755 nsm.ko NSM]"; fmt.Sprint(got) != want {
				t.Errorf("%s, want %s", got, want)
			}
			// A name with a transport is looked up there, even with --docker.
			done(t, append(at("customer-initrd.img", "-docker"), c.cust)...)
			got = entries(t, open(t, filepath.Join(dir, c.name+"customer-initrd.img-initrd.img")))
			text := strings.Join(got, "\n")
			for _, want := range []string{
				"40755 rootfs\n", "100644 rootfs/bin/app code\n", "40755 rootfs/tmp\n", "40755 rootfs/run\n",
				"120777 rootfs/etc/resolv.conf /run/resolvconf/resolv.conf\n",
				"100644 cmd /bin/app\n", "100644 env A=b\n",
			} {
				if strings.Count(text, want) != 1 {
					t.Errorf("%q is not there once:\n%s", want, text)
				}
			}
			if last := got[len(got)-1]; last != "100644 neb/complete neb ramdisk complete 1" {
				t.Errorf("the last entry is %s", last)
			}
			if strings.Index(text, "100644 cmd") < strings.LastIndex(text, " rootfs/") {
				t.Error("cmd comes before the end of the tree")
			}
		})
	}
	for _, name := range []string{"bootstrap", "customer"} {
		var both [2][]byte
		for i, form := range []string{"new", "old"} {
			b, err := os.ReadFile(filepath.Join(dir, form+name+"-initrd.img-initrd.img"))
			if err != nil {
				t.Fatal(err)
			}
			both[i] = b
		}
		if !bytes.Equal(both[0], both[1]) {
			t.Errorf("%s: the old and the new form give different bytes", name)
		}
	}
}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	ref := layoutOf(t, Layer(t, Dir("boot/", 0o755), File("boot/kernel", "K"), File("boot/more", "M")))
	yaml := write(t, dir, "x.yml", fmt.Sprintf("prefix: r/\ninit: [%q]\nfiles: [{path: a/b, contents: hi}, "+
		"{path: boot/kernel, contents: k}]\n", ref))
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	done(t, "build", "--arch", "x86_64", "--dir", dir, yaml)
	done(t, "build", "--arch", "amd64", "--name", filepath.Join(dir, "y"), "--format", "kernel+initrd-nogz",
		yaml)
	z, err := gzip.NewReader(bytes.NewReader(read("x-initrd.img")))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, read("y-initrd.img")) {
		t.Errorf("kernel+initrd and kernel+initrd-nogz have different archives (%v)", err)
	}
	got := strings.Join(entries(t, bytes.NewReader(read("y-initrd.img"))), "\n")
	for _, want := range []string{"100600 a/b hi", "100600 boot/kernel k", "100644 r/boot/kernel K",
		"100644 r/boot/more M"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}

	done(t, "build", "--arch", "amd64", "--o", filepath.Join(dir, "z.tar"), yaml)
	if out := done(t, "build", "--arch", "amd64", "-o", "-", "--format", "tar",
		yaml); out != string(read("z.tar")) {
		t.Error("a tar on standard output differs from one in a file")
	}
	names := map[string]bool{}
	for in := tar.NewReader(bytes.NewReader(read("z.tar"))); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name] = true
	}
	if !names["a/b"] || !names["r/boot/kernel"] || names["neb/complete"] {
		t.Errorf("z.tar has %v", names)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 4 {
		t.Errorf("expected x.yml and three outputs, found %s %v", left, err)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "good.yml", "files: [{path: a, contents: x}]")
	bad := write(t, dir, "bad.yml", "init: [a]\nonboot: []")
	gone := write(t, dir, "gone.yml", "files: [{path: a, source: /no/such/file}]")
	ping := layoutOf(t, Layer(t, File("ping", "x").With(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
	})))
	lost := write(t, dir, "lost.yml", fmt.Sprintf("init: [%q]", ping))
	name := filepath.Join(dir, "out")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"build"}, "arg"},
		{[]string{"build", "--no-such-flag", good}, "unknown flag: --no-such-flag"},
		{[]string{"build", "--size", "5", good},
			"unknown flag: --size; this linuxkit only builds ramdisks: use neb eif build"},
		{[]string{"build", "--cache", "x", good}, "unknown flag: --cache"},
		{[]string{"build", "-decompress-kernel", good}, "-decompress-kernel"},
		{[]string{"build", "--input-tar=x", good}, "--input-tar"},
		{[]string{"build", "--mirror", "x", good}, "--mirror"},
		{[]string{"--cert-file", "x", "build", good}, "--cert-file"},
		{[]string{"build", "--format", "iso-efi", good}, `invalid format "iso-efi": expected one of kernel+initrd, kernel+initrd-nogz, tar; use neb eif build for`},
		{[]string{"build", "--format", "tar-kernel-initrd", good}, `invalid format "tar-kernel-initrd"`},
		{[]string{"build", "--format", "tar,kernel+initrd", good}, `invalid format "tar,kernel+initrd"`},
		{[]string{"build", "--o", "x", "--name", "y", good}, "--o cannot be combined with --name or --dir"},
		{[]string{"build", "--o", "x", "--dir", "y", good}, "--o cannot be combined with --name or --dir"},
		{[]string{"build", "--o", "x", "--format", "kernel+initrd", good},
			"--o cannot be combined with format kernel+initrd"},
		{[]string{"build", "--arch", "riscv64", good}, "riscv64"},
		{[]string{"build", "--max-bytes", "x", good}, "unknown flag: --max-bytes"},
		{[]string{"build", filepath.Join(dir, "none.yml")}, "none.yml"},
		{[]string{"build", "https://host.example/x.yml"}, "download the file"},
		{[]string{"build", "--name", name, bad}, `bad.yml: line 2: key "onboot" is not supported`},
		{[]string{"build", "--name", name, gone}, "a: stat /no/such/file"},
		{[]string{"build", "--name", name, "--arch", "arm64", lost},
			"wrong platform: found linux/amd64, expected linux/arm64"},
		{[]string{"build", "--name", name, "--arch", "amd64", "--strict", lost},
			"ping: extended attribute security.capability"},
		{[]string{"build", "--name", filepath.Join(dir, "no", "such", "dir"), good}, "there is no directory"},
		{[]string{"run", "qemu"}, `unknown command "run" for "linuxkit"; this linuxkit only builds ramdisks: use neb eif build for a whole`},
		{[]string{"pkg", "build", "--force"}, `unknown command "pkg"`},
		{[]string{"cache", "export", "--outfile", "x", "a"}, `or LinuxKit (github.com/linuxkit/linuxkit) for the rest`},
		{[]string{"-q", "cache", "ls"}, `unknown command "cache"`},
	} {
		status, _, said := call(t, c.args...)
		if status != 1 || !strings.Contains(said, c.want) {
			t.Errorf("linuxkit %s: status %d, %q, want 1 and %q", strings.Join(c.args, " "), status, said,
				c.want)
		}
	}
	// Nothing of all that left anything where the output would be.
	left, err := filepath.Glob(filepath.Join(dir, "*out*"))
	hidden, err2 := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || err2 != nil || len(left)+len(hidden) > 0 {
		t.Errorf("left behind: %s %s", left, hidden)
	}
	// Without --strict there is a warning, and the output exists.
	status, _, said := call(t, "build", "--name", name, "--arch", "amd64", lost)
	if status != 0 || !strings.Contains(said, "ping: extended attribute security.capability is lost") {
		t.Errorf("status %d, %s", status, said)
	}
	if _, err := os.Stat(name + "-initrd.img"); err != nil {
		t.Error(err)
	}
}

// TestOldOutputStays fails half-way over an output that is there.
func TestOldOutputStays(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "x-initrd.img", "old")
	yaml := write(t, dir, "x.yml", fmt.Sprintf("init: [%q]", layoutOf(t, []byte("this is no tar archive"))))
	if status, _, _ := call(t, "build", "--arch", "amd64", "--dir", dir, yaml); status != 1 {
		t.Errorf("status %d", status)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "x-initrd.img")); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	yaml := write(t, dir, "x.yml", fmt.Sprintf("prefix: rootfs/\ninit: [%q]",
		layoutOf(t, Layer(t, File("a", ""), File("b", "")))))
	build := func() []byte {
		t.Helper()
		done(t, "build", "--arch", "amd64", "--dir", dir, "--format", "kernel+initrd-nogz", yaml)
		b, err := os.ReadFile(filepath.Join(dir, "x-initrd.img"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	prefix := uint32(0) // the time of its directory: LinuxKit has 2017-04-18 16:30 UTC
	newest := func(b []byte) (latest uint32) {
		in := initramfs.NewReader(bytes.NewReader(b))
		for {
			h, err := in.Next()
			if err != nil {
				return latest
			}
			latest = max(latest, h.ModTime)
			if h.Name == "rootfs" {
				prefix = h.ModTime
			}
		}
	}
	if at := newest(build()); at != uint32(Time.Unix()) || prefix != 1492533000 {
		t.Errorf("the newest entry is of %d, the prefix's directory of %d", at, prefix)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	if at := newest(build()); at != 1_000_000_000 {
		t.Errorf("with SOURCE_DATE_EPOCH the newest entry is of %d", at)
	}
	for _, c := range []struct{ name, value, want string }{
		{"SOURCE_DATE_EPOCH", "yesterday", `invalid SOURCE_DATE_EPOCH: found "yesterday"`},
		{"LINUXKIT_MAX_ENTRIES", "1",
			"more than 1 entries: raise LINUXKIT_MAX_ENTRIES if you trust the image"},
		{"LINUXKIT_MAX_BYTES", "100", "more than 100 bytes"},
		{"LINUXKIT_MAX_BYTES", "-1", `invalid LINUXKIT_MAX_BYTES: found "-1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			if status, _, said := call(t, "build", "--arch", "amd64", "--dir", dir, yaml); status != 1 ||
				!strings.Contains(said, c.want) {
				t.Errorf("status %d, %q, want %q", status, said, c.want)
			}
		})
	}
}

func TestMerged(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "a.yml", "files: [{path: x, contents: one}, {path: l, symlink: x}]")
	b := write(t, dir, "b.yml", "files: [{path: x, contents: two}, {path: y, source: /no/such, optional: "+
		"true}, {path: p/q/r, contents: z, mode: \"0640\", uid: 3}]")
	done(t, "build", "--dir", dir, "--format", "kernel+initrd-nogz", a, b)
	got := fmt.Sprint(entries(t, open(t, filepath.Join(dir, "b-initrd.img"))))
	if want := "[40750 p 40750 p/q 100640 p/q/r z 120777 l x 100600 x two]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out, err bytes.Buffer
	status := run([]string{"build", "--dir", dir, "-"},
		streams{strings.NewReader("files: [{path: x, contents: in}]"), &out, &err})
	if _, missing := os.Stat(filepath.Join(dir, "moby-initrd.img")); status != 0 || missing != nil {
		t.Errorf("from standard input: status %d, %s, %v", status, err.String(), missing)
	}
}

func TestVersion(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "linuxkit version v1.5.2-neb\n"}, {[]string{"-quiet", "version"},
			"linuxkit version v1.5.2-neb\n"},
		{[]string{"-v", "version"}, "linuxkit version v1.5.2-neb\n"}, {[]string{"-v", "2", "version"},
			"linuxkit version v1.5.2-neb\n"},
		{[]string{"-verbose=0", "version"}, "linuxkit version v1.5.2-neb\n"},
		{[]string{"version", "-v"}, "linuxkit version v1.5.2-neb\n"},
	} {
		if out := done(t, c.args...); out != c.want {
			t.Errorf("%v: %q, want %q", c.args, out, c.want)
		}
	}
	for _, args := range [][]string{{}, {"--help"}, {"-help"}, {"build", "-h"}, {"help", "build"}} {
		if out := done(t, args...); !strings.Contains(out, "Usage:") {
			t.Errorf("%v: %q", args, out)
		}
	}
}

// TestWhereImagesAreLookedFor: engine, then registry.
func TestWhereImagesAreLookedFor(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/app:1"
	push := func(body string) {
		t.Helper()
		l := NewLayout(t)
		l.Name(l.Image("amd64", [][]byte{Layer(t, File("who", body))}, Gzip), "")
		index, err := layout.ImageIndexFromPath(l.Dir())
		if err != nil {
			t.Fatal(err)
		}
		m, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		img, err := index.Image(m.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		to, err := name.ParseReference(ref)
		if err == nil {
			err = remote.Write(to, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	t.Setenv("DOCKER_HOST", "unix://"+dir+"/none.sock")
	yaml := write(t, dir, "x.yml", "init: ["+ref+"]")
	var said string
	who := func(flags ...string) string {
		t.Helper()
		var status int
		status, _, said = call(t, append([]string{"build", "--arch", "amd64", "--dir", dir, "--format",
			"kernel+initrd-nogz", yaml}, flags...)...)
		if status != 0 {
			t.Fatalf("status %d: %s", status, said)
		}
		for _, line := range entries(t, open(t, dir+"/x-initrd.img")) {
			if body, ok := strings.CutPrefix(line, "100644 who "); ok {
				return body
			}
		}
		return ""
	}
	push("first")
	noEngine := "no Docker engine answers at unix://" + dir + "/none.sock: "
	if got := who("--docker", "--quiet"); got != "first" || !strings.Contains(said, noEngine) ||
		!strings.Contains(said, "; using the image from its registry") {
		t.Errorf("no engine: %q, %s", got, said)
	}
	push("second")
	if got := who(); got != "second" || said != "" {
		t.Errorf("from the registry: %q, %s", got, said)
	}
	saved := DockerSave(t, "amd64", "engine:1", [][]byte{Layer(t, File("who", "engine"))})
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/get") {
			http.ServeFile(w, r, saved)
			return
		}
		fmt.Fprint(w, "{}")
	}))
	defer engine.Close()
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	t.Setenv("DOCKER_HOST", strings.Replace(none.URL, "http", "tcp", 1))
	if got := who("--docker"); got != "second" ||
		!strings.Contains(said, "the Docker engine has no such image") || !strings.Contains(said, "; using") {
		t.Errorf("an engine without it: %q, %s", got, said)
	}
	t.Setenv("DOCKER_HOST", strings.Replace(engine.URL, "http", "tcp", 1))
	if got := who("--docker"); got != "engine" || strings.Contains(said, "registry") {
		t.Errorf("with an engine: %q, %s", got, said)
	}
	if got := who("--docker", "--pull"); got != "second" {
		t.Errorf("--pull: %q", got)
	}
	if got := who(); got != "second" {
		t.Errorf("without --docker: %q", got)
	}
	t.Setenv("LINUXKIT_MIRROR", "http://mirror.example")
	if status, _, said := call(t, "build", "--arch", "amd64", "--dir", dir, yaml); status != 1 ||
		!strings.Contains(said, "LINUXKIT_MIRROR=http://mirror.example is not supported") {
		t.Errorf("with a mirror: status %d, %s", status, said)
	}
	t.Setenv("LINUXKIT_MIRROR", "")
	server.Close()
	t.Setenv("DOCKER_HOST", strings.Replace(none.URL, "http", "tcp", 1))
	if status, _, said := call(t, "build", "--arch", "amd64", "--docker", "--dir", dir, yaml); status != 1 ||
		!strings.Contains(said, "no such image") || !strings.Contains(said, "image "+ref+":") {
		t.Errorf("no registry and no image in the engine: status %d, %s", status, said)
	}
}
