//go:build slow

package foreign

import (
	"debug/elf"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestExamples boots the examples of docs/attest.md: enclaves in Go, Python and Rust, each with the SDK of
// AWS, that get a data key from neb run --kms.
func TestExamples(t *testing.T) {
	require.Sandbox(t)
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	neb := filepath.Join(dir, "neb")
	run(t, "../..", "go", "build", "-o", neb, "./cmd/neb")
	run(t, "../..", neb, "attest", "ca", "init")
	arn := strings.TrimSpace(run(t, "../..", neb, "kms", "create-key"))
	for _, example := range []struct {
		name, endpoint string
		command        []string
		build          func(t *testing.T, tree string)
	}{
		{"Go", "http://localhost", []string{"/enclave"}, func(t *testing.T, tree string) {
			t.Setenv("CGO_ENABLED", "0")
			run(t, "../../docs/examples/go", "go", "build", "-o", filepath.Join(tree, "enclave"), ".")
		}},
		{"Python", "http://localhost:8000", []string{"/bin/python3", "/enclave.py"}, pythonTree},
		{"Rust", "http://localhost:8000", []string{"/enclave"}, func(t *testing.T, tree string) {
			// The SDK compiles fastest without optimization, but RSA keys would then take minutes in QEMU.
			program := cargo(t, "../../docs/examples/rust", "enclave", "--config", "profile.dev.debug=false",
				"--config", "profile.dev.strip=true", "--config",
				"profile.dev.package.num-bigint-dig.opt-level=3")
			install(t, program, filepath.Join(tree, "enclave"))
			installLinked(t, tree)
			// The SDK does not start without trusted roots, even for an endpoint without TLS.
			roots, certs := run(t, "../..", neb, "attest", "ca", "show", "--pem"),
				filepath.Join(tree, "etc/ssl/certs")
			err := os.MkdirAll(certs, 0o755)
			if err == nil {
				err = os.WriteFile(filepath.Join(certs, "ca-certificates.crt"), []byte(roots), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(example.name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			if err := os.Mkdir(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			example.build(t, tree)
			args := []string{"eif", "build", "--rootfs", tree, "--output", tree + ".eif"}
			for _, word := range example.command {
				args = append(args, "--entrypoint", word)
			}
			for _, variable := range []string{
				"KEY_ID=" + arn, "KMS_ENDPOINT=" + example.endpoint, "AWS_REGION=us-east-1",
				"AWS_DEFAULT_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=y",
				"PYTHONHOME=/", "PYTHONPATH=/modules",
			} {
				args = append(args, "--env", variable)
			}
			run(t, "../..", neb, args...)
			out := run(t, "../..", neb, "run", tree+".eif", "--kms", "--timeout", "10m")
			if !strings.Contains(out, "got a data key of 32 bytes") {
				t.Errorf("the enclave said\n%s", out)
			}
		})
	}
}

// pythonTree copies this machine's Python, the modules of python/requirements.txt and the example. An image
// from a Dockerfile has the same.
func pythonTree(t *testing.T, tree string) {
	interpreter := python(t)
	paths := strings.Split(strings.TrimSpace(run(t, ".", interpreter, "-c",
		"import os, sys, sysconfig\n"+
			"print(os.path.realpath(sys.executable), sysconfig.get_path('stdlib'), "+
			"sysconfig.get_path('purelib'), sep='\\n')")), "\n")
	lib := filepath.Join("lib", filepath.Base(paths[1])) // python3.N
	install(t, paths[0], filepath.Join(tree, "bin/python3"))
	copyTree(t, paths[1], filepath.Join(tree, lib), "test", "__pycache__", "site-packages", "dist-packages",
		"idlelib", "config-", "ensurepip")
	copyTree(t, paths[2], filepath.Join(tree, "modules"), "__pycache__", "pip", "setuptools")
	install(t, "../../docs/examples/python/enclave.py", filepath.Join(tree, "enclave.py"))
	installLinked(t, tree)
}

// installLinked copies what the programs and libraries in a tree are linked with, and the loader.
func installLinked(t *testing.T, tree string) {
	var linked []string
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if f, err := elf.Open(path); err == nil {
				f.Close()
				linked = append(linked, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(run(t, ".", require.Command(t, "ldd"), linked...)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") && !strings.HasSuffix(word, ":") {
				install(t, word, filepath.Join(tree, word))
			}
		}
	}
}

func install(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// copyTree copies the files of a directory, without those under names that begin like one of without.
func copyTree(t *testing.T, from, to string, without ...string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, name := range without {
			if path != from && strings.HasPrefix(e.Name(), name) && e.IsDir() {
				return fs.SkipDir
			}
		}
		relative, err := filepath.Rel(from, path)
		if err == nil && e.Type().IsRegular() {
			install(t, path, filepath.Join(to, relative))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
