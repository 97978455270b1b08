// Package devca is the authority behind the attestation documents of emulated enclaves: a chain of
// certificates like Amazon's (root, region, zone, instance, enclave) under a root of the user's own. It is
// not AWS, and its root says so.
//
// It is a development tool: its keys protect nothing. They stay outside of the enclave, where the module
// signs.
package devca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Unit is the organisational unit in the subject of every certificate made here.
const Unit = "neb development root, not AWS"

// fileName is the file of a root in its directory: its key and its certificate, in PEM.
const fileName = "root.pem"

// How long certificates are valid, as in Amazon's chain: the root for decades, the region for weeks, the zone
// for a week, the instance for a day, the enclave for three hours.
const (
	rootLife     = 30 * 365 * 24 * time.Hour
	regionLife   = 20 * 24 * time.Hour
	zoneLife     = 7 * 24 * time.Hour
	instanceLife = 24 * time.Hour
	enclaveLife  = 3 * time.Hour
	// renewal is how long before the end of an enclave's certificate the next one is issued.
	renewal = 10 * time.Minute
	// backdate makes a chain valid for a verifier whose clock is behind.
	backdate = 5 * time.Minute
)

// Authority is a certificate and its key.
type Authority struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New makes a root that exists in memory only.
func New() (*Authority, error) {
	return issue(nil, "neb.nitro-enclaves", time.Now().Add(-24*time.Hour), rootLife, true)
}

// Dir is where a user's root is kept: neb/attestation-ca in the user's configuration directory.
func Dir() (string, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("directory of the attestation authority: %w", err)
	}
	return filepath.Join(config, "neb", "attestation-ca"), nil
}

// Choose returns the root in dir, or a new one if dir is "new". If dir is empty, it returns the user's root
// if there is one, and else a new one.
func Choose(dir string) (*Authority, error) {
	if dir == "new" {
		return New()
	}
	if dir != "" {
		return Load(dir)
	}
	own, err := Dir()
	if err != nil {
		return New() // without a home directory, the user has no root
	}
	root, err := Load(own)
	if errors.Is(err, fs.ErrNotExist) {
		return New()
	}
	return root, err
}

// Init makes a root and writes it atomically into dir, which it creates with mode 0700. The error is
// [os.ErrExist] where dir holds a root: a new one would invalidate every policy that trusts the old one.
func Init(dir string) (*Authority, error) {
	root, err := New()
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(root.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".root-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), root.PEM()...))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Link(f.Name(), filepath.Join(dir, fileName)) // unlike a rename it replaces nothing
	}
	if err != nil {
		return nil, err
	}
	return root, nil
}

// maxFile bounds the file of a root, in bytes; it has about 1,000.
const maxFile = 64 << 10

// Load reads the root in dir. It rejects a file that others can read, a certificate that is not that of an
// authority, and a pair that does not belong together. The error is [os.ErrNotExist] where there is none.
func Load(dir string) (*Authority, error) {
	path := filepath.Join(dir, fileName)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && os.PathSeparator == '/' { // Windows has no such modes
		return nil, fmt.Errorf("%s: mode %04o, expected 0600: others may have read the key; "+
			"remove the file and run neb attest ca init", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	root, err := parse(text, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return root, nil
}

// parse reads a key and its certificate in PEM.
func parse(text []byte, now time.Time) (*Authority, error) {
	a := &Authority{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			key, ok := parsed.(*ecdsa.PrivateKey)
			if !ok || key.Curve != elliptic.P384() {
				return nil, fmt.Errorf("invalid key: expected ECDSA on P-384")
			}
			a.key = key
		case "CERTIFICATE":
			var err error
			if a.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, err
			}
		}
	}
	c := a.Certificate
	switch {
	case a.key == nil || c == nil:
		return nil, fmt.Errorf("invalid root: expected a PRIVATE KEY and a CERTIFICATE in PEM")
	case !c.IsCA || !c.BasicConstraintsValid:
		return nil, fmt.Errorf("invalid root: expected the certificate of an authority")
	case !a.key.PublicKey.Equal(c.PublicKey):
		return nil, fmt.Errorf("invalid root: the certificate is not for the key")
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return nil, fmt.Errorf("invalid root: valid from %s to %s, and the clock is at %s",
			c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return a, nil
}

// PEM is the root's certificate as a verifier takes it (neb attest verify --root).
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// Server returns a certificate for a TLS server on this machine that a client reaches under name; an empty
// name stands for the loopback addresses.
func (a *Authority) Server(name string) (*tls.Certificate, error) {
	server, err := issue(a, "neb kms", time.Now().Add(-backdate), instanceLife, false,
		func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
			c.DNSNames = []string{"localhost"}
			if name != "" {
				c.DNSNames = append(c.DNSNames, name)
			}
		})
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{server.Certificate.Raw}, PrivateKey: server.key}, nil
}

// issue makes a certificate and its key, signed by parent, or by itself where parent is nil. It is never
// valid for longer than its parent. changes are made to it before it is signed.
func issue(parent *Authority, name string, from time.Time, life time.Duration, isCA bool,
	changes ...func(*x509.Certificate)) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{"neb"}, OrganizationalUnit: []string{Unit}, CommonName: name,
		},
		NotBefore:             from,
		NotAfter:              from.Add(life),
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
		BasicConstraintsValid: true,
		IsCA:                  isCA,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	for _, change := range changes {
		change(template)
	}
	signer := Authority{template, key}
	if parent != nil {
		signer = *parent
		if end := parent.Certificate.NotAfter; template.NotAfter.After(end) {
			template.NotAfter = end
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Certificate, &key.PublicKey, signer.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{certificate, key}, nil
}

// Identity is what an enclave's module signs with. Its method may be called from several goroutines.
type Identity struct {
	root     *Authority
	instance string
	module   string

	mu    sync.Mutex
	chain []*Authority // the root first, the enclave's own last; empty before the first use
}

// Identity is that of an enclave of an instance, by their names: "i-0123456789abcdef0", and the module's
// "i-0123456789abcdef0-enc0123456789abcde".
func (a *Authority) Identity(instance, module string) *Identity {
	return &Identity{root: a, instance: instance, module: module}
}

// Chain returns the certificates in DER, the root first and the enclave's own last, and the key of the last.
// Certificates that are about to expire are issued anew.
func (e *Identity) Chain(now time.Time) ([][]byte, crypto.Signer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var leaf x509.Certificate
	if n := len(e.chain); n > 0 {
		leaf = *e.chain[n-1].Certificate
	}
	// A clock that was set back can be before the certificate, too.
	if now.After(leaf.NotAfter.Add(-renewal)) || now.Before(leaf.NotBefore) {
		if err := e.renew(now); err != nil {
			return nil, nil, fmt.Errorf("certificates of the enclave: %w", err)
		}
	}
	var ders [][]byte
	for _, a := range e.chain {
		ders = append(ders, a.Certificate.Raw)
	}
	return ders, e.chain[len(e.chain)-1].key, nil
}

// renew issues every certificate below the root: that is as cheap as finding out which of them expire first.
func (e *Identity) renew(now time.Time) error {
	const domain = ".local.neb.nitro-enclaves"
	chain := []*Authority{e.root}
	for _, link := range []struct {
		name  string
		life  time.Duration
		below int // authorities below it, as Amazon's certificates limit them; -1 for the enclave's own
	}{
		{"region" + domain, regionLife, 2},
		{"zone" + domain, zoneLife, 1},
		{e.instance + domain, instanceLife, 0},
		{e.module + domain, enclaveLife, -1},
	} {
		next, err := issue(chain[len(chain)-1], link.name, now.Add(-backdate), link.life, link.below >= 0,
			func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = link.below, link.below == 0 })
		if err != nil {
			return err
		}
		chain = append(chain, next)
	}
	e.chain = chain
	return nil
}
