// Package sharing tests what machines share through registries that others wrote: one user builds and pushes,
// another one with an empty store takes the same files; keys that are missing or disagree make neb build.
package sharing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/registries"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/source"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

const (
	root   = "../.."
	nobody = 65534 // the other user, if the test runs as root
)

// A machine is a user with a configuration and a store.
type machine struct {
	neb    string // the program
	source string
	dir    string // home, configuration and results
	store  string // "" for that of this machine
	uid    uint32
}

// run runs neb and returns its output on both streams.
func (m machine) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.neb, args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "NEB_SOURCE="+m.source, "XDG_CONFIG_HOME="+m.dir)
	if m.store != "" {
		cmd.Env = append(cmd.Env, "HOME="+m.dir, "NEB_CACHE="+m.store, "GOCACHE="+m.dir)
	}
	if m.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: m.uid, Gid: m.uid}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is run for what must succeed.
func (m machine) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.run(t, args...)
	if err != nil {
		t.Fatalf("neb %v: %v\n%s", args, err, out)
	}
	return out
}

// other returns a machine of another user with an empty store.
func (m machine) other(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	m.dir, m.store = dir, filepath.Join(dir, "store")
	if os.Geteuid() == 0 {
		m.uid = nobody
		for _, err := range []error{os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, nobody, nobody)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

func TestMachines(t *testing.T) {
	require.Sandbox(t)
	work := t.TempDir()
	if err := os.Chmod(filepath.Dir(work), 0o755); err != nil {
		t.Fatal(err)
	}
	a := machine{neb: filepath.Join(work, "bin", "neb"), source: filepath.Join(work, "source"), dir: work}
	source.Copy(t, root, a.source)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", a.neb, "./cmd/neb")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	alice, alicePublic := key(t, work, "alice")
	bob, bobPublic := key(t, work, "bob")

	a.must(t, "build", "init", "linuxkit", "-o", filepath.Join(work, "result"))
	want := sums(t, filepath.Join(work, "result"))
	for name, start := range map[string]func(testing.TB) string{
		"Debian's registry":               registries.Debian,
		"go-containerregistry's registry": registries.Referrers,
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t)
			at := []string{"--remote", host + "/team/neb"}
			push := append([]string{"cache", "push", "init", "linuxkit"}, at...)
			pull := append([]string{"cache", "pull", "init", "linuxkit"}, at...)
			a.must(t, append(push, "--key", alice)...)

			// Another user with an empty store takes the same files and builds nothing.
			b := a.other(t)
			b.must(t, "trust", "add", "alice", alicePublic)
			out := b.must(t, append([]string{"build", "init", "linuxkit", "-o", "result"}, at...)...)
			if strings.Count(out, "taken from a remote") != 2 {
				t.Errorf("expected two builds from the remote:\n%s", out)
			}
			if found := sums(t, filepath.Join(b.dir, "result")); found != want {
				t.Errorf("SHA256SUMS differ: expected\n%sfound\n%s", want, found)
			}

			// Two keys are required, and one is missing until bob states the same files.
			c := a.other(t)
			c.must(t, "trust", "add", "alice", alicePublic)
			c.must(t, "trust", "add", "bob", bobPublic)
			two := append(pull, "--require", "2")
			if out, err := c.run(t, two...); err == nil || !strings.Contains(out, "2 are required") {
				t.Errorf("one of two keys: %v\n%s", err, out)
			}
			a.must(t, append(push, "--key", bob)...)
			c.must(t, two...)
			report := append([]string{"trust", "report"}, at...)
			out = c.must(t, report...)
			for _, by := range []string{"alice built it on ", "bob built it on "} {
				if strings.Count(out, ": trusted: "+by) != 2 ||
					!strings.Contains(out, "kernel x86_64: no statement") {
					t.Errorf("expected statements of two builds, %q:\n%s", by, out)
				}
			}

			// Bob states other files: the report fails, and nobody takes either.
			disagree(t, host+"/team/neb", keyOf(t, c, at, "init-"), bob)
			if out, err := c.run(t, report...); err == nil ||
				!strings.Contains(out, "init x86_64: disagrees: bob") ||
				!strings.Contains(out, "trusted keys disagree about 1 of the builds") {
				t.Errorf("keys that disagree: %v\n%s", err, out)
			}
			d := c.other(t)
			d.must(t, "trust", "add", "alice", alicePublic)
			d.must(t, "trust", "add", "bob", bobPublic)
			if out, err := d.run(t, pull...); err == nil || !strings.Contains(out, "trusted keys disagree") {
				t.Errorf("keys that disagree: %v\n%s", err, out)
			}

			// A user who trusts neither takes nothing.
			e := a.other(t)
			if out, err := e.run(t, pull...); err == nil ||
				!strings.Contains(out, "not signed by a trusted key") {
				t.Errorf("no trusted key: %v\n%s", err, out)
			}
		})
	}
}

// disagree states that the file init has another hash.
func disagree(t *testing.T, at, of, keyFile string) {
	t.Helper()
	private, err := sign.ReadPrivateKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := trust.Output{Key: of, Component: "init", Arch: "x86_64", Host: "amd64",
		Isolation: "namespaces", Time: time.Now(),
		Files: []trust.File{{Name: "init", SHA256: strings.Repeat("66", 32)}},
	}.Sign(private)
	if err != nil {
		t.Fatal(err)
	}
	r, err := remote.Open(t.Context(), at)
	if err == nil {
		err = r.State(t.Context(), of, statement)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// keyOf returns the key with a prefix in a remote.
func keyOf(t *testing.T, m machine, at []string, prefix string) string {
	t.Helper()
	var list []struct{ Key string }
	out := m.must(t, append([]string{"cache", "ls", "--json"}, at...)...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		if strings.HasPrefix(k.Key, prefix) {
			return k.Key
		}
	}
	t.Fatalf("no key %s in\n%s", prefix, out)
	return ""
}

// key writes a pair of keys and returns their files.
func key(t *testing.T, dir, name string) (private, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	private, public = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".pub")
	for path, block := range map[string]*pem.Block{
		private: {Type: "PRIVATE KEY", Bytes: der}, public: {Type: "PUBLIC KEY", Bytes: publicDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return private, public
}

// sums returns the SHA256SUMS of a result.
func sums(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
