package component

import (
	"archive/zip"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                 "module " + module + "\n",
		"go.sum":                 "",
		"cmd/x/main.go":          "package main\nimport (\n\"fmt\"\n\"" + module + "/a\"\n\"golang.org/x/sys/unix\"\n)\n",
		"cmd/x/main_test.go":     "package main\nimport \"example.org/only/for/tests\"\n",
		"cmd/x/testdata/big":     "",
		"a/a_windows.go":         "package a\nimport _ \"" + module + "/b\"\n",
		"a/asm_amd64.s":          "",
		"a/data/one/text":        "",
		"a/inner/inner.go":       "package inner\n",
		"b/b.go":                 "package b\n",
		"unrelated/unrelated.go": "package unrelated\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := (&sourceTree{dir}).program("x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a/a_windows.go", "a/asm_amd64.s", "a/data/one/text", "b/b.go", "cmd/x/main.go", "go.mod", "go.sum"}; !slices.Equal(p.files, want) {
		t.Errorf("files: expected %q, found %q", want, p.files)
	}
	if want := []string{"golang.org/x/sys/unix"}; !slices.Equal(p.outside, want) {
		t.Errorf("from outside: expected %q, found %q", want, p.outside)
	}
	if _, err := (&sourceTree{dir}).program("y"); err == nil || !strings.Contains(err.Error(), "cmd/y") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestFindSource(t *testing.T) {
	own, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "go.mod"), []byte("module example.org/other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, flag, variable, in, expected string }{
		{"flag", own, other, "/", own},
		{"variable", "", own, "/", own},
		{"upwards", "", "", filepath.Join(own, "build", "component"), own},
		{"another module", other, own, "/", "expected the module " + module + ", found example.org/other"},
		{"no module", "/", "", "/", "go.mod"},
		{"nowhere", "", "", other, "say where it is with --source or NEB_SOURCE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NEB_SOURCE", c.variable)
			t.Chdir(c.in)
			tree, err := (&Builder{Source: c.flag}).findSource(t.Context())
			switch {
			case err != nil && !strings.Contains(err.Error(), c.expected):
				t.Errorf("expected %q, found %v", c.expected, err)
			case err == nil && tree.dir != c.expected:
				t.Errorf("expected %q, found %q", c.expected, tree.dir)
			}
		})
	}
}

func TestUnzipModule(t *testing.T) {
	for _, c := range []struct {
		name     string
		entries  []string
		expected string // error
	}{
		{"toolchain", []string{"golang.org/toolchain@v1/bin/go", "golang.org/toolchain@v1/pkg/tool/linux_amd64/compile", "golang.org/toolchain@v1/src/a.go"}, ""},
		{"no version", []string{"bin/go"}, `"bin/go": expected module@version/path`},
		{"outside", []string{"golang.org/toolchain@v1/../../evil"}, "escapes"},
		{"twice", []string{"m@v1/a", "m@v1/a"}, "file exists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			w := zip.NewWriter(&b)
			for _, name := range c.entries {
				if _, err := w.Create(name); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			path, dir := filepath.Join(t.TempDir(), "zip"), t.TempDir()
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			err := unzipModule(t.Context(), path, dir)
			if c.expected != "" {
				if err == nil || !strings.Contains(err.Error(), c.expected) {
					t.Errorf("expected %q, found %v", c.expected, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for name, mode := range map[string]fs.FileMode{"bin/go": 0o755, "pkg/tool/linux_amd64/compile": 0o755, "src/a.go": 0o644} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
		})
	}
}

// A machine whose Go lies about itself, whose go.env asks for everything that changes a binary, and whose GOROOT has
// the locked version but another source: none of it gets into what is built.
func TestHostileGo(t *testing.T) {
	require.Sandbox(t)
	source := readable(t, sourceOf(t)) // as it is now, for both
	plain := task{Store: ownStore(t, os.Geteuid(), "go-"), Arch: "x86_64", Names: []string{"init"}, Source: source}
	o := plain.child(t, nil)
	if o.Error != "" {
		t.Fatal(o.Error)
	}

	hostile := plain
	hostile.Store = ownStore(t, os.Geteuid(), "go-")
	home := t.TempDir()
	bin := filepath.Join(home, "goroot", "bin")
	version := "go" + mustLock(t).Go.Version
	for path, text := range map[string]string{
		filepath.Join(bin, "go"):                          "#!/bin/sh\ncase \"$1\" in version) echo go version " + version + " linux/amd64;; env) echo off;; *) echo hostile >&2; exit 1;; esac\n",
		filepath.Join(home, "goroot", "VERSION"):          version + "\n",
		filepath.Join(home, "goroot", "src/fmt/print.go"): "package fmt\nfunc init() { panic(\"hostile\") }\n",
		filepath.Join(home, "go.env"):                     "GOFLAGS=-tags=hostile -ldflags=-X=main.evil=1\nGOAMD64=v3\nCGO_ENABLED=1\nGOEXPERIMENT=nogreenteagc\nGOPROXY=off\nGOTOOLCHAIN=go1.20\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	// The modules are there: what fetches them may ask the machine's Go for its proxy.
	modules, err := filepath.Glob(filepath.Join(plain.Store, "outputs", "modules-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range modules {
		copyTo(t, from, filepath.Join(hostile.Store, "outputs", filepath.Base(from)))
	}
	h := hostile.child(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "GOROOT="+filepath.Join(home, "goroot"), "GOENV="+filepath.Join(home, "go.env"),
			"GOFLAGS=-tags=hostile", "GOAMD64=v4", "GOEXPERIMENT=nogreenteagc", "CGO_ENABLED=1", "GOTOOLCHAIN=go1.20", "GOWORK="+filepath.Join(home, "go.work"),
			"GODEBUG=asynctimerchan=1", "CC=false", "GOCACHEPROG=/bin/false")
	})
	if h.Error != "" {
		t.Fatal(h.Error)
	}
	if got, want := h.files()["init"], o.files()["init"]; got != want || want == "" {
		t.Errorf("init: %s, expected %s", got, want)
	}
}

// init and linuxkit are static, stripped, without a build ID, and say which Go made them, for both architectures.
func TestGoPrograms(t *testing.T) {
	b := sharedBuilder(t)
	sizes := map[string]int{"init": 2_000_000, "linuxkit": 16_000_000} // bytes, at most
	for arch, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64} {
		outputs, err := b.Build(t.Context(), arch, "init", "linuxkit")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range outputs {
			path := filepath.Join(o.Dir, o.Component)
			program, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			if program.Machine != machine {
				t.Errorf("%s for %s: machine %v", o.Component, arch, program.Machine)
			}
			for _, p := range program.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("%s for %s is not static", o.Component, arch)
				}
			}
			for _, s := range []string{".symtab", ".debug_info", ".note.gnu.build-id"} {
				if section := program.Section(s); section != nil && section.Size > 0 {
					t.Errorf("%s for %s has a section %s", o.Component, arch, s)
				}
			}
			info, err := buildinfo.ReadFile(path)
			if err != nil || info.GoVersion != "go"+b.Lock.Go.Version {
				t.Errorf("%s for %s: made by %v, expected go%s, %v", o.Component, arch, info.GoVersion, b.Lock.Go.Version, err)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if most := sizes[o.Component]; len(content) > most {
				t.Errorf("%s for %s has %d bytes, may have %d", o.Component, arch, len(content), most)
			}
			report.Linef(t, "%s for %s: %d bytes", o.Component, arch, len(content))
			content = bytes.ReplaceAll(content, []byte("/neb/modules"), nil) // init reads it in the enclave
			for _, s := range []string{"/build/gopath", "/modules/", "/src/cmd", b.Store.Dir()} {
				if bytes.Contains(content, []byte(s)) {
					t.Errorf("%s for %s has the path %q in it", o.Component, arch, s)
				}
			}
		}
	}
}

// A neb that was installed at a version takes its own source at that version, with the hash that it was made from.
func TestReleasedSource(t *testing.T) {
	b := sharedBuilder(t)
	proxy := t.TempDir()
	const version = "v1.2.3"
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, text := range map[string]string{"go.mod": "module " + module + "\n", "cmd/init/main.go": "package main\n"} {
		f, err := w.Create(module + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(proxy, module, "@v", version)
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at+".zip", archive.Bytes(), 0o644),
		os.WriteFile(at+".mod", []byte("module "+module+"\n"), 0o644), os.WriteFile(at+".info", []byte(`{"Version":"`+version+`"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("HOME", t.TempDir())

	const wrong = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	_, err := b.releasedSource(t.Context(), version, wrong)
	if err == nil || !strings.Contains(err.Error(), "expected the module with sum "+wrong+", found h1:") {
		t.Fatalf("another sum: %v", err)
	}
	_, right, _ := strings.Cut(err.Error(), ", found ")
	dir, err := b.releasedSource(t.Context(), version, right)
	if err != nil {
		t.Fatal(err)
	}
	if files, _, err := (&sourceTree{dir}).packageFiles("cmd/init"); err != nil || len(files) != 1 {
		t.Errorf("found %v, %v", files, err)
	}
	b.Offline = true
	if _, err := b.releasedSource(t.Context(), "v9.9.9", right); err == nil || !strings.Contains(err.Error(), "--offline") {
		t.Errorf("offline: %v", err)
	}
}

func TestGoProxy(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GOPROXY", "https://proxy.example.org|file:///modules,direct")
	if got, want := (&Builder{}).goProxy(t.Context()), "https://proxy.example.org|file:///modules,direct"; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
	own := filepath.Join(home, "go/pkg/mod/cache/download")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, want := (&Builder{Offline: true}).goProxy(t.Context()), "file://"+own+",file:///modules,off"; got != want {
		t.Errorf("offline: found %q, expected %q", got, want)
	}
}
