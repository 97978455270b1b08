//go:build slow

// Package foreign gives attestation documents and the stand-in for AWS KMS to programs that others wrote: one
// verifier each in Go, Rust and Python, and the AWS SDK for Python. They come from the registries of their
// languages, in the versions that the files here name. A Cargo.lock would name the registry of this machine.
package foreign

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/internal/kms"
	emulated "github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// files are an attestation document and roots, in a directory.
type files struct {
	dir  string
	root *devca.Authority
	key  *rsa.PrivateKey
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// attest makes a document as the enclaves of neb run get it.
func attest(t *testing.T) files {
	t.Helper()
	root, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	const id = "i-0123456789abcdef0-enc0123456789abcde"
	module := emulated.New(emulated.Config{
		ID: id, PCRs: map[int]emulated.Digest{0: {0xa0}}, Chain: root.Identity(id[:19], id).Chain,
	})
	m := nsm.Module{Exchange: func(request []byte) ([]byte, error) { return module.Answer(request), nil }}
	document, err := m.Attest([]byte("user data"), []byte("nonce"), public)
	if err != nil {
		t.Fatal(err)
	}
	f := files{t.TempDir(), root, key}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(document)
	changed[len(changed)-1] ^= 1
	aws := nsm.AWSRoot().Raw
	for name, content := range map[string][]byte{
		"document": document, "changed": changed,
		"root.pem": root.PEM(), "root.der": root.Certificate.Raw,
		"aws.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: aws}), "aws.der": aws,
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		if err := os.WriteFile(f.path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// run runs a command in a directory and fails the test if it fails.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// cargo compiles the crate in a directory, without optimization, and returns the path of its program.
func cargo(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	crate := filepath.Join(t.TempDir(), "crate") // cargo writes a Cargo.lock
	if err := os.CopyFS(crate, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	run(t, crate, require.Command(t, "cargo"), append([]string{"build", "-q"}, args...)...)
	return filepath.Join(crate, "target", "debug", program)
}

// python makes an environment with the modules of python/requirements.txt, once for all tests, and returns
// its interpreter.
func python(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(shared, "venv", "bin")
	if _, err := os.Stat(filepath.Join(bin, "done")); err != nil {
		run(t, ".", require.Command(t, "python3"), "-m", "venv", filepath.Dir(bin))
		run(t, ".", filepath.Join(bin, "pip"), "install", "-q", "-r", "python/requirements.txt")
		if err := os.WriteFile(filepath.Join(bin, "done"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(bin, "python")
}

// shared is a directory of all tests.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if shared, err = os.MkdirTemp("", "foreign"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(shared)
		return m.Run()
	}())
}

// TestVerifiers has three verifiers that accept a document under the development root, and refuse it under
// that of AWS, and when its signature changed.
func TestVerifiers(t *testing.T) {
	f := attest(t)
	for _, verifier := range []struct {
		name, roots string // roots: the extension of their files
		build       func(t *testing.T) []string
	}{
		{"Go: hf/nitrite", ".der", func(t *testing.T) []string {
			program := filepath.Join(t.TempDir(), "nitrite")
			run(t, "nitrite", "go", "build", "-o", program, ".")
			return []string{program}
		}},
		{"Rust: aws-nitro-enclaves-attestation", ".der", func(t *testing.T) []string {
			t.Setenv("OPENSSL_NO_VENDOR", "1") // use the system's: compiling another takes minutes
			return []string{cargo(t, "rust", "foreign")}
		}},
		{"PyPI: epsilon-attestation-verifier", ".pem", func(t *testing.T) []string {
			return []string{python(t), "python/verify.py"}
		}},
	} {
		t.Run(verifier.name, func(t *testing.T) {
			command := verifier.build(t)
			for _, c := range []struct {
				document, root string
				accepted       bool
			}{{"document", "root", true}, {"document", "aws", false}, {"changed", "root", false}} {
				args := append(command[1:len(command):len(command)], f.path(c.document),
					f.path(c.root+verifier.roots))
				out, err := exec.CommandContext(t.Context(), command[0], args...).CombinedOutput()
				if (err == nil) != c.accepted {
					t.Errorf("%s under %s: %v, expected accepted: %v\n%s", c.document, c.root, err,
						c.accepted, out)
				}
				t.Logf("%s under %s: %.300s", c.document, c.root, out)
			}
		})
	}
}

// TestBoto3 uses the stand-in with the AWS SDK for Python, over HTTP and over TLS, with checked signatures,
// and decrypts what it got for the enclave.
func TestBoto3(t *testing.T) {
	f := attest(t)
	interpreter := python(t)
	caller, err := kms.ParseCaller(kms.DefaultCaller)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	server := &kms.Server{
		File: f.path("keys.json"), Root: f.root, Caller: caller,
		Credentials: aws.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: secret},
		Report:      func(line string) { t.Log(line) },
	}
	arn, err := server.CreateKey("eu-central-1", "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- server.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	script, err := filepath.Abs("python/kms.py")
	if err != nil {
		t.Fatal(err)
	}
	openssl := require.Command(t, "openssl")
	for _, scheme := range []string{"http://", "https://"} {
		cmd := exec.CommandContext(t.Context(), interpreter, script, scheme+l.Addr().String(), arn,
			f.path("document"), f.path("root.pem"))
		cmd.Dir, cmd.Stdin = f.dir, strings.NewReader(secret+"\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", scheme, err, out)
		}
		plaintext := run(t, f.dir, openssl, "cms", "-decrypt", "-binary", "-inform", "DER", "-in", "answer",
			"-inkey", "key.pem")
		if plaintext != "secret" {
			t.Errorf("%s: decrypted %q", scheme, plaintext)
		}
	}
}
