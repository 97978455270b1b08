package devca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestInitAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "ca")
	if _, err := Load(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("load from nothing: %v", err)
	}
	made, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(dir)
	if err != nil || !loaded.Certificate.Equal(made.Certificate) || !loaded.key.Equal(made.key) {
		t.Fatalf("loaded another root: %v", err)
	}
	if _, err := Init(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("second init: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if block, _ := pem.Decode(loaded.PEM()); block == nil || block.Type != "CERTIFICATE" ||
		strings.Contains(string(loaded.PEM()), "PRIVATE") {
		t.Errorf("PEM: %s", loaded.PEM())
	}
	if s := loaded.Certificate.Subject.String(); !strings.Contains(s, "not AWS") {
		t.Errorf("subject %q", s)
	}
}

func TestLoadRejects(t *testing.T) {
	dir := t.TempDir()
	root, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := good[:strings.Index(string(good), "-----BEGIN CERT")]
	other, _ := New()
	chain, _, err := root.Identity("i-1", "i-1-enc1").Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[4]})
	for name, c := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"others can read": {good, 0o644, "mode 0644, expected 0600"},
		"group can read":  {good, 0o640, "mode 0640, expected 0600"},
		"empty":           {nil, 0o600, "expected a PRIVATE KEY and a CERTIFICATE"},
		"key alone":       {key, 0o600, "expected a PRIVATE KEY and a CERTIFICATE"},
		"another's": {append(key[:len(key):len(key)], other.PEM()...), 0o600,
			"the certificate is not for the key"},
		"no authority": {append(key[:len(key):len(key)], leaf...), 0o600,
			"expected the certificate of an authority"},
		"damaged": {[]byte(strings.Replace(string(good), "MI", "AA", 1)), 0o600, "asn1"},
		"beyond the maximum": {append(make([]byte, maxFile), good...), 0o600,
			"expected a PRIVATE KEY and a CERTIFICATE"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), path) {
				t.Errorf("got %v, expected %q with the path", err, c.want)
			}
		})
	}
	if _, err := parse(good, time.Now().Add(-48*time.Hour)); err == nil ||
		!strings.Contains(err.Error(), "the clock is at") {
		t.Errorf("before its validity: %v", err)
	}
}

func TestChain(t *testing.T) {
	root, err := New()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	identity := root.Identity("i-0123456789abcdef0", "i-0123456789abcdef0-enc0123456789abcde")
	ders, key, err := identity.Chain(now)
	if err != nil || len(ders) != 5 || key == nil {
		t.Fatalf("%d certificates, %v", len(ders), err)
	}
	pool := x509.NewCertPool()
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if len(der) > 1024 {
			t.Errorf("certificate %d has %d bytes, and a document takes 1,024", i, len(der))
		}
		if want := []int{-1, 2, 1, 0, -1}[i]; c.MaxPathLen != want {
			t.Errorf("certificate %d: path length %d, expected %d", i, c.MaxPathLen, want)
		}
		if last := i == len(ders)-1; c.IsCA == last || !c.BasicConstraintsValid ||
			c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			t.Errorf("certificate %d: %+v", i, c)
		}
		pool.AddCert(c)
	}
	same, _, err := identity.Chain(now.Add(2 * time.Hour))
	if err != nil || string(same[4]) != string(ders[4]) {
		t.Errorf("the certificate changed within its life: %v", err)
	}
	next, _, err := identity.Chain(now.Add(3 * time.Hour))
	if err != nil || string(next[4]) == string(ders[4]) || string(next[0]) != string(ders[0]) {
		t.Errorf("the certificate was not renewed, or the root was: %v", err)
	}
}

// Two runs share a root and nothing else, and a clock that is set back gets certificates that are valid then.
func TestTwoRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	made, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seen := map[string]bool{}
	for run := range 2 {
		root, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		identity := root.Identity("i-0123456789abcdef0", fmt.Sprintf("i-0123456789abcdef0-enc%d", run))
		for _, at := range []time.Time{now, now.Add(-2 * time.Hour)} {
			ders, _, err := identity.Chain(at)
			if err != nil {
				t.Fatal(err)
			}
			roots, others := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(made.Certificate)
			for _, der := range ders[1:4] {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				others.AddCert(c)
			}
			leaf, err := x509.ParseCertificate(ders[4])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: others, CurrentTime: at,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			}); err != nil {
				t.Errorf("run %d at %v: %v", run, at, err)
			}
			if seen[string(ders[4])] {
				t.Errorf("run %d has the certificate of another", run)
			}
			seen[string(ders[4])] = true
		}
	}
}
