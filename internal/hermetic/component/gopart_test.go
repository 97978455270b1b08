package component

import (
	"archive/zip"
	"bytes"
	"errors"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	before := build.Default.ToolTags // neb's own environment has no effect
	t.Cleanup(func() { build.Default.ToolTags = before })
	build.Default.ToolTags = append(slices.Clone(before), "amd64.v4")
	for name, text := range map[string]string{
		"a/fast.go": "//go:build amd64.v4\n\npackage a\n",
		"go.mod":    "module " + module + "\n",
		"go.sum":    "",
		"cmd/x/main.go": "package main\nimport (\n\"fmt\"\n\"" + module +
			"/a\"\n\"golang.org/x/sys/unix\"\n)\n",
		"cmd/x/main_test.go":     "package main\nimport \"example.org/only/for/tests\"\n",
		"cmd/x/testdata/big":     "",
		"a/a.go":                 "package a\n",
		"a/a_windows.go":         "package a\nimport _ \"golang.org/x/sys/windows\"\n",
		"a/a_arm64.go":           "package a\nimport _ \"" + module + "/b\"\n",
		"a/asm_amd64.s":          "",
		"a/data/one/text":        "",
		"a/inner/inner.go":       "package inner\n",
		"b/b.go":                 "package b\n",
		"unrelated/unrelated.go": "package unrelated\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := programIn(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a/a.go", "a/a_arm64.go", "a/asm_amd64.s", "b/b.go", "cmd/x/main.go",
		"go.mod", "go.sum"}; !slices.Equal(p.files, want) {
		t.Errorf("files: expected %q, found %q", want, p.files)
	}
	if want := []string{"golang.org/x/sys/unix"}; !slices.Equal(p.outside, want) {
		t.Errorf("from outside: expected %q, found %q", want, p.outside)
	}
	if _, err := programIn(dir, "y"); err == nil || !strings.Contains(err.Error(), "cmd/y") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestFindSource(t *testing.T) {
	own, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "go.mod"), []byte("module example.org/other\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, flag, variable, in, expected string }{
		{"flag", own, other, "/", own},
		{"variable", "", own, "/", own},
		{"upwards", "", "", filepath.Join(own, "internal", "hermetic", "component"), own},
		{"another module", other, own, "/", "expected module " + module + ", found example.org/other"},
		{"no module", "/", "", "/", "go.mod"},
		{"nowhere", "", "", other, "set --source or NEB_SOURCE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NEB_SOURCE", c.variable)
			t.Chdir(c.in)
			dir, err := (&Builder{Source: c.flag}).findSource(t.Context())
			switch {
			case err != nil && !strings.Contains(err.Error(), c.expected):
				t.Errorf("expected %q, found %v", c.expected, err)
			case err == nil && dir != c.expected:
				t.Errorf("expected %q, found %q", c.expected, dir)
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
		{"toolchain", []string{"golang.org/toolchain@v1/bin/go",
			"golang.org/toolchain@v1/pkg/tool/linux_amd64/compile", "golang.org/toolchain@v1/src/a.go"}, ""},
		{"no version", []string{"bin/go"}, `"bin/go": expected module@version/path`},
		{"outside", []string{"golang.org/toolchain@v1/../../evil"}, "expected module@version/path"},
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
			for name, mode := range map[string]fs.FileMode{"bin/go": 0o755,
				"pkg/tool/linux_amd64/compile": 0o755, "src/a.go": 0o644} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
		})
	}
}

func TestGoProxy(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", os.DevNull) // the go command writes telemetry there, in the background
	t.Setenv("GOPROXY", "https://proxy.example.org|file:///modules,direct")
	if got, want := (&Builder{}).goProxy(t.Context()),
		"https://proxy.example.org|file:///modules,direct"; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
	own := filepath.Join(home, "go/pkg/mod/cache/download")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, want := (&Builder{Offline: true}).goProxy(t.Context()), "file://"+own+
		",file:///modules,off"; got != want {
		t.Errorf("offline: found %q, expected %q", got, want)
	}
}
