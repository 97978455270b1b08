// Package mirror gives tests files to download, and servers that play mirrors of Debian and do what their
// handlers say.
package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// Content returns n bytes that are the same in every run.
func Content(n int) []byte {
	random := rand.NewChaCha8([32]byte{7})
	data := make([]byte, n)
	_, _ = random.Read(data)
	return data
}

// Hash returns the SHA-256 of data, in hexadecimal.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Locked returns the file that a lock would name for data.
func Locked(name string, data []byte) lock.File {
	return lock.File{
		Name: name, Version: "1.0-1", Arch: "amd64", Archive: lock.Debian,
		Path:     "pool/main/" + name + "_1.0-1_amd64.deb",
		Snapshot: time.Date(2026, 11, 20, 8, 30, 0, 0, time.UTC), Size: int64(len(data)), SHA256: Hash(data),
	}
}

// Server is a mirror that notes what it was asked for.
type Server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // path, and the Range asked for
}

// Serve starts a mirror that does what handler says, until the end of the test.
func Serve(t testing.TB, handler http.HandlerFunc) *Server {
	t.Helper()
	s := &Server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Requests returns the path of each request so far, followed by its Range if it had one.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// Good serves data as a mirror should.
func Good(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// URLs returns the addresses of servers, for a list of mirrors.
func URLs(servers ...*Server) []string {
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	return urls
}
