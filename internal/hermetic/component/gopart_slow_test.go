//go:build slow

package component

import (
	"archive/zip"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// A machine whose Go lies about itself, whose go.env asks for everything that changes a binary, and whose
// GOROOT has the locked version but another source: none of it gets into what is built.
func TestHostileGo(t *testing.T) {
	require.Sandbox(t)
	source := readable(t, sourceOf(t)) // as it is now, for both
	plain := task{Store: ownStore(t, os.Geteuid(), "go-"), Arch: "x86_64", Names: []string{"init"},
		Source: source}
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
		filepath.Join(bin, "go"): "#!/bin/sh\ncase \"$1\" in version) echo go version " +
			version + " linux/amd64;; env) echo off;; *) echo hostile >&2; exit 1;; esac\n",
		filepath.Join(home, "goroot", "VERSION"): version + "\n",
		filepath.Join(home, "goroot",
			"src/fmt/print.go"): "package fmt\nfunc init() { panic(\"hostile\") }\n",
		filepath.Join(home, "go.env"): "GOFLAGS=-tags=hostile -ldflags=-X=main.evil=1\nGOAMD64=v3\n" +
			"CGO_ENABLED=1\nGOEXPERIMENT=nogreenteagc\nGOPROXY=off\nGOTOOLCHAIN=go1.20\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, []byte(text), 0o755)); err != nil {
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
		cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "GOROOT="+filepath.Join(home, "goroot"),
			"GOENV="+filepath.Join(home, "go.env"),
			"GOFLAGS=-tags=hostile", "GOAMD64=v4", "GOEXPERIMENT=nogreenteagc", "CGO_ENABLED=1",
			"GOTOOLCHAIN=go1.20", "GOWORK="+filepath.Join(home, "go.work"),
			"GODEBUG=asynctimerchan=1", "CC=false", "GOCACHEPROG=/bin/false")
	})
	if h.Error != "" {
		t.Fatal(h.Error)
	}
	if got, want := h.files()["init"], o.files()["init"]; got != want || want == "" {
		t.Errorf("init: %s, expected %s", got, want)
	}
}

// init and linuxkit are static, stripped, without a build ID, and say which Go made them, for both
// architectures.
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
				t.Errorf("%s for %s: made by %v, expected go%s, %v", o.Component, arch, info.GoVersion,
					b.Lock.Go.Version, err)
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

// A neb that was installed at a version takes its own source at that version, with the hash that it was
// made from.
func TestReleasedSource(t *testing.T) {
	b := sharedBuilder(t)
	proxy := t.TempDir()
	const version = "v1.2.3"
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, text := range map[string]string{"go.mod": "module " + module + "\n",
		"cmd/init/main.go": "package main\n"} {
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
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755),
		os.WriteFile(at+".zip", archive.Bytes(), 0o644),
		os.WriteFile(at+".mod", []byte("module "+module+"\n"), 0o644), os.WriteFile(at+".info",
			[]byte(`{"Version":"`+version+`"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", os.DevNull) // the go command writes telemetry there, in the background

	const wrong = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	_, err := b.releasedSource(t.Context(), version, wrong)
	if err == nil || !strings.Contains(err.Error(), "expected "+wrong+", found h1:") {
		t.Fatalf("another sum: %v", err)
	}
	_, right, _ := strings.Cut(err.Error(), ", found ")
	dir, err := b.releasedSource(t.Context(), version, right)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := programIn(dir, "init"); err != nil || len(p.files) != 3 {
		t.Errorf("found %v, %v", p.files, err)
	}
	b.Offline = true
	if _, err := b.releasedSource(t.Context(), "v9.9.9", right); err == nil ||
		!strings.Contains(err.Error(), "--offline") {
		t.Errorf("offline: %v", err)
	}
}
