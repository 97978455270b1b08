package mirror

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Key returns a key that is valid at a time.
func Key(t testing.TB, name string, now time.Time) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity(name, "", name+"@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(-1000 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Suite is one suite of an archive.
type Suite struct {
	Archive, Name string
	Codename      string    // "": Name
	Date          time.Time // of the Release file
	Until         time.Time // zero: for ever
	Signed        time.Time
	Key           *openpgp.Entity
	Indexes       map[string]string // by name below main/, without .xz
}

// Archives are stand-ins of Debian's archives on one server.
type Archives struct {
	*Server
	mu    sync.Mutex
	files map[string][]byte // by path
}

// NewArchives starts a server without files.
func NewArchives(t testing.TB) *Archives {
	a := &Archives{files: map[string][]byte{}}
	a.Server = Serve(t, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		data, ok := a.files[r.URL.Path]
		a.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		Good(data)(w, r)
	})
	return a
}

// Publish puts a suite on the server, signed.
func (a *Archives) Publish(t testing.TB, s Suite) {
	t.Helper()
	const form = "Mon, 02 Jan 2006 15:04:05 UTC"
	dir := "/" + s.Archive + "/dists/" + s.Name + "/"
	if s.Codename == "" {
		s.Codename = s.Name
	}
	var release bytes.Buffer
	fmt.Fprintf(&release, "Origin: Debian\nCodename: %s\nDate: %s\n", s.Codename, s.Date.UTC().Format(form))
	if !s.Until.IsZero() {
		fmt.Fprintf(&release, "Valid-Until: %s\n", s.Until.UTC().Format(form))
	}
	fmt.Fprintf(&release, "Acquire-By-Hash: yes\nSHA256:\n")
	for name, text := range s.Indexes {
		var packed bytes.Buffer
		w, err := xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&packed) // small: there are hundreds of them
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		name = "main/" + name + ".xz"
		a.Put(dir+name, packed.Bytes())
		fmt.Fprintf(&release, " %s %d %s\n", Hash(packed.Bytes()), packed.Len(), name)
	}
	a.Put(dir+"InRelease", Sign(t, s.Key, s.Signed, release.Bytes()))
}

// Sign returns a clear-signed text.
func Sign(t testing.TB, key *openpgp.Entity, at time.Time, text []byte) []byte {
	t.Helper()
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return signed.Bytes()
}

// Put puts a file on the server; nil removes it.
func (a *Archives) Put(path string, data []byte) {
	a.Change(path, func([]byte) []byte { return data })
}

// Get returns a file of the server.
func (a *Archives) Get(path string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[path]
}

// Change replaces a file of the server; nil removes it.
func (a *Archives) Change(path string, f func([]byte) []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if data := f(a.files[path]); data == nil {
		delete(a.files, path)
	} else {
		a.files[path] = data
	}
}

// Move moves all files below a path.
func (a *Archives) Move(from, to string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for path, data := range a.files {
		if rest, ok := strings.CutPrefix(path, from); ok {
			a.files[to+rest] = data
			delete(a.files, path)
		}
	}
}

// Stanza is a stanza of a Packages index about a package with some content; more are further lines of it.
func Stanza(name, version, arch string, content []byte, more ...string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nFilename: "+
		"pool/main/%s_%s_%s.deb\nSize: %d\n"+
		"SHA256: %s\n%s\n\n", name, version, arch, name, version, arch, len(content), Hash(content),
		strings.Join(more, "\n"))
}
