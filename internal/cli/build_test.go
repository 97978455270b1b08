//go:build linux

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tryBuild runs neb with an empty store, where nothing can be fetched.
func tryBuild(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "store"))
	var out, err bytes.Buffer
	code = Main(append(args, "--offline"), &out, &err)
	if out.Len() > 0 {
		t.Errorf("neb %v printed %q", args, out.String())
	}
	return code, err.String()
}

func TestBuildRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("file", "")
	write("foreign/x86_64/notes", "")
	vhost := write("vhost.config", "CONFIG_TUN=y\nCONFIG_VHOST_VSOCK=y\n")
	syntax := write("syntax.config", "CONFIG_TUN: yes\n")
	result := filepath.Join(dir, "result")
	for _, c := range []struct {
		name     string
		args     []string
		code     int
		expected []string
	}{
		{"unknown target", []string{"build", "initrd"}, 2,
			[]string{`unknown target "initrd"`, "all, init, linuxkit, kernel, emulator"}},
		{"unknown architecture", []string{"build", "--arch", "riscv64"}, 2,
			[]string{`invalid --arch "riscv64"`, "x86_64 or aarch64"}},
		{"unknown flag", []string{"build", "--fast"}, 2, []string{"--fast"}},
		{"jobs", []string{"build", "-j", "-1", "-o", result}, 2,
			[]string{"invalid --jobs -1: expected a positive number"}},
		{"profile", []string{"build", "--profile", "pci", "-o", result}, 2,
			[]string{`invalid --profile "pci": expected pcie`}},
		{"output is a file", []string{"build", "-o", file}, 1, []string{file, "found a file"}},
		{"output holds something else", []string{"build", "--arch", "x86_64", "-o",
			filepath.Join(dir, "foreign")}, 1, []string{"foreign/x86_64/notes was not written by neb"}},
		{"no such fragment", []string{"build", "-o", result, "--config-fragment", "/nowhere"}, 1,
			[]string{"--config-fragment", "/nowhere"}},
		{"no such patch", []string{"build", "-o", result, "--patch", "/nowhere"}, 1,
			[]string{"--patch", "/nowhere"}},
		{"no such kernel", []string{"build", "kernel", "-o", result, "--kernel-source", "/nowhere"}, 1,
			[]string{"kernel source", "/nowhere"}},
		{"no such series", []string{"build", "kernel", "-o", result, "--kernel", "5.4"}, 2,
			[]string{"--kernel", `"5.4"`, "6.12, 7.3", "neb update kernel --series"}},
		{"no such source", []string{"build", "init", "-o", result, "--source", "/nowhere"}, 1,
			[]string{"--source", "/nowhere"}},
		{"refused option", []string{"build", "kernel", "-o", result, "--config-fragment", vhost}, 1,
			[]string{vhost + ":2", "CONFIG_VHOST_VSOCK"}},
		{"fragment in wrong syntax", []string{"build", "kernel", "-o", result, "--config-fragment", syntax},
			1, []string{syntax + ":1"}},
		{"offline", []string{"build", "kernel", "-o", result}, 1,
			[]string{"--offline", "linux-source-6.12", "gcc-14"}},
		{"offline, another series", []string{"build", "kernel", "-o", result, "--kernel", "7.3"}, 1,
			[]string{"--offline", "linux-source-7.3", "gcc-14"}},
		{"offline, all blobs", []string{"build", "-o", result}, 1,
			[]string{"--offline", "golang.org/toolchain"}},
		{"verify nothing", []string{"verify", filepath.Join(dir, "nowhere")}, 1,
			[]string{"nowhere", "no such file"}},
		{"verify a file", []string{"verify", file}, 1, []string{file, "found a file"}},
		{"verify something else", []string{"verify", dir}, 1, []string{dir, "no blobs found"}},
		{"verify with no such toolchain", []string{"verify", "--toolchain", "gcc-13"}, 2,
			[]string{`invalid --toolchain "gcc-13"`, "other"}},
		{"verify a release with the other toolchain", []string{"verify", "--toolchain", "other", "--release",
			file}, 2, []string{"--toolchain cannot be combined with --release"}},
		{"sign for the other toolchain", []string{"verify", "--toolchain", "other", "--sign", file}, 2,
			[]string{"--toolchain cannot be combined with --sign"}},
		{"verify two", []string{"verify", "a", "b"}, 2, []string{"at most 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stderr := tryBuild(t, c.args...)
			if code != c.code {
				t.Errorf("exit status %d, expected %d", code, c.code)
			}
			for _, expected := range c.expected {
				if !strings.Contains(stderr, expected) {
					t.Errorf("expected %q in %q", expected, stderr)
				}
			}
			if _, err := os.Stat(result); err == nil {
				t.Error("a result was made")
			}
		})
	}
}

func TestWarnsAboutKexec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kexec.config")
	if err := os.WriteFile(path, []byte("CONFIG_KEXEC=y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr := tryBuild(t, "build", "kernel", "-o", filepath.Join(t.TempDir(), "result"),
		"--config-fragment", path)
	if !strings.Contains(stderr,
		"warning: "+path+":1: CONFIG_KEXEC=y: root in the enclave could start another kernel") {
		t.Errorf("found %q", stderr)
	}
}
