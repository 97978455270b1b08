package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

const key = "kernel-x86_64-00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestMain(m *testing.M) {
	// Retries that wait would make the tests of broken registries slow.
	policy.Backoff = func(int, *http.Response) time.Duration { return 0 }
	policy.MinWait, policy.MaxWait, policy.MaxRetry = 0, 0, 2
	os.Exit(m.Run())
}

// A server is a registry that others wrote, with faults between it and the client.
type server struct {
	*httptest.Server
	registry http.Handler
	fault    func(w http.ResponseWriter, r *http.Request) bool // reports whether it answered
	uploads  atomic.Int32                                      // of blobs
	mu       sync.Mutex
}

func newServer(t *testing.T, referrers bool) *server {
	t.Helper()
	s := &server{registry: registry.New(registry.Logger(log.New(io.Discard, "", 0)),
		registry.WithReferrersSupport(referrers))}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
			s.uploads.Add(1)
		}
		s.mu.Lock()
		fault := s.fault
		s.mu.Unlock()
		if fault == nil || !fault(w, r) {
			s.registry.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) setFault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *server) name() string { return strings.TrimPrefix(s.URL, "http://") + "/team/neb" }

func openTest(t *testing.T, name string) *Remote {
	t.Helper()
	r, err := Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// someFiles writes the files of an output: one that zstd shrinks, and one that it does not.
func someFiles(t *testing.T) (dir string, files []trust.File) {
	t.Helper()
	dir = t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 300_000)
	_, _ = random.Read(noise)
	for name, data := range map[string][]byte{"bzImage": noise, "cmdline": bytes.Repeat([]byte("quiet "),
		9000)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bzImage", "cmdline"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		files = append(files, trust.File{Name: name, SHA256: hex.EncodeToString(sum[:])})
	}
	return dir, files
}

// someStatement returns an envelope with one signature, which nobody checks here.
func someStatement(n int) []byte {
	return fmt.Appendf(nil, `{"payload":"%d","signatures":[{"keyid":"k"}]}`, n)
}

// pushed pushes an output and returns its files.
func pushed(t *testing.T, r *Remote) []trust.File {
	t.Helper()
	dir, files := someFiles(t)
	if err := r.Push(t.Context(), key, files, dir, someStatement(1)); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestOutputs(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (func() *Remote, *server){
		"registry": func(t *testing.T) (func() *Remote, *server) {
			s := newServer(t, true)
			return func() *Remote { return openTest(t, s.name()) }, s
		},
		"registry without referrers API": func(t *testing.T) (func() *Remote, *server) {
			s := newServer(t, false)
			return func() *Remote { return openTest(t, s.name()) }, s
		},
		"directory": func(t *testing.T) (func() *Remote, *server) {
			dir := filepath.Join(t.TempDir(), "shared")
			return func() *Remote { return openTest(t, dir) }, nil
		},
	} {
		t.Run(name, func(t *testing.T) { testOutputs(t, open) })
	}
}

// testOutputs pushes and fetches with a new [Remote] for each call, as processes do. The server may be nil.
func testOutputs(t *testing.T, open func(t *testing.T) (func() *Remote, *server)) {
	t.Helper()
	again, server := open(t)
	ctx := t.Context()
	if list, err := again().Statements(ctx, key); err != nil || len(list) != 0 {
		t.Errorf("empty remote: statements %q, error %v", list, err)
	}
	if err := again().Fetch(ctx, key, nil, t.TempDir()); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty remote: error %v, expected ErrNotFound", err)
	}
	files := pushed(t, again())
	var uploads int32
	if server != nil {
		uploads = server.uploads.Load()
	}
	pushed(t, again())
	if server != nil && server.uploads.Load() != uploads {
		t.Errorf("second push uploaded %d blobs again", server.uploads.Load()-uploads)
	}
	if err := again().State(ctx, key, someStatement(2)); err != nil {
		t.Fatal(err)
	}
	list, err := again().Statements(ctx, key)
	if err != nil || len(list) != 2 {
		t.Errorf("statements %q, error %v, expected two", list, err)
	}
	keys, err := again().Keys(ctx)
	if err != nil || len(keys) != 1 || keys[0] != key {
		t.Errorf("keys %q, error %v, expected %s", keys, err, key)
	}
	if _, err := again().Index(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("no index of releases: error %v, expected ErrNotFound", err)
	}
	for _, index := range []string{`{"payload":"1.9.0"}`, `{"payload":"1.10.0"}`} {
		if err := again().PushIndex(ctx, []byte(index)); err != nil {
			t.Fatal(err)
		}
		if found, err := again().Index(ctx); err != nil || string(found) != index {
			t.Errorf("index of releases: %q, error %v, expected %q", found, err, index)
		}
	}
	dir := t.TempDir()
	if err := again().Fetch(ctx, key, files, dir); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, dir, files)
	if err := again().Fetch(ctx, strings.Replace(key, "0011", "ffff", 1), files, dir); !errors.Is(err,
		ErrNotFound) {
		t.Errorf("another key: error %v, expected ErrNotFound", err)
	}
}

func checkFiles(t *testing.T, dir string, files []trust.File) {
	t.Helper()
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
			t.Errorf("%s: wrong content", f.Name)
		}
	}
}

// TestTwoPushers pushes statements about one output at the same time.
func TestTwoPushers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	api, old := newServer(t, true), newServer(t, false)
	for _, name := range []string{dir, api.name(), old.name()} {
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				r, err := Open(context.Background(), name)
				if err == nil {
					err = r.State(context.Background(), key, someStatement(i))
				}
				// without the API an entry can be lost, and that is an error
				if err != nil && name != old.name() {
					t.Error(err)
				}
			})
		}
		group.Wait()
		list, err := openTest(t, name).Statements(t.Context(), key)
		if err != nil || len(list) == 0 || name != old.name() && len(list) != 4 {
			t.Errorf("%s: %d statements, error %v, expected 4", name, len(list), err)
		}
	}
}

// TestPushCut cuts a push at each of its requests, with a registry that has no space from then on: what is
// there is not taken for an output, and the next push completes it.
func TestPushCut(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		dir, files := someFiles(t)
		for cut := 0; ; cut++ {
			s := newServer(t, referrers)
			var writes atomic.Int32
			s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet || r.Method == http.MethodHead {
					return false
				}
				if int(writes.Add(1)) <= cut {
					return false
				}
				w.WriteHeader(http.StatusInsufficientStorage)
				return true
			})
			err := openTest(t, s.name()).Push(t.Context(), key, files, dir, someStatement(1))
			s.setFault(nil)
			if err == nil {
				if cut < 5 {
					t.Errorf("pushed with %d requests that write", cut)
				}
				break
			}
			if !strings.Contains(err.Error(), "507") {
				t.Errorf("cut after %d: error %v, expected one with the status", cut, err)
			}
			out := t.TempDir()
			if err := openTest(t, s.name()).Fetch(t.Context(), key, files, out); err == nil {
				checkFiles(t, out, files)
			}
			pushed(t, openTest(t, s.name()))
			if err := openTest(t, s.name()).Fetch(t.Context(), key, files, t.TempDir()); err != nil {
				t.Errorf("after a push that was cut after %d: %v", cut, err)
			}
		}
	}
}

// TestFaults has registries that fail and lie. Fetch either fails or writes the right files.
func TestFaults(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	blobs := func(change func(http.ResponseWriter, []byte)) func(*server) func(
		http.ResponseWriter, *http.Request) bool {
		return func(s *server) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
					return false
				}
				answer := httptest.NewRecorder()
				s.registry.ServeHTTP(answer, r)
				change(w, answer.Body.Bytes())
				return true
			}
		}
	}
	plain := func(f func(http.ResponseWriter, *http.Request) bool) func(*server) func(
		http.ResponseWriter, *http.Request) bool {
		return func(*server) func(http.ResponseWriter, *http.Request) bool { return f }
	}
	for _, test := range []struct {
		name  string
		fault func(*server) func(http.ResponseWriter, *http.Request) bool
		want  string // in the error
	}{
		{"401", plain(status(401)), "401"},
		{"403", plain(status(403)), "403"},
		{"404", plain(status(404)), "not found"},
		{"429", plain(status(429)), "429"},
		{"500", plain(status(500)), "500"},
		{"one byte changed", blobs(func(w http.ResponseWriter, b []byte) {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
		}), "artifact"},
		{"too short", blobs(func(w http.ResponseWriter, b []byte) {
			_, _ = w.Write(b[:len(b)/2])
		}), "artifact"},
		{"too long", blobs(func(w http.ResponseWriter, b []byte) {
			_, _ = w.Write(append(bytes.Clone(b), 'x'))
		}), "artifact"},
		{"a referrers list of 5 MB", plain(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			_, _ = w.Write(bytes.Repeat([]byte(" "), 5<<20))
			return true
		}), "list what refers to"},
		{"a manifest of 5 MB", plain(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			_, _ = w.Write(bytes.Repeat([]byte(" "), 5<<20))
			return true
		}), "manifest"},
		{"a list that claims sizes", plain(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			fmt.Fprintf(w, `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
				"artifactType":%q,"size":99999999999,"digest":"sha256:%064d"}]}`, typeOutput, 1)
			return true
		}), "99999999999 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, true)
			files := pushed(t, openTest(t, s.name()))
			s.setFault(test.fault(s))
			dir := t.TempDir()
			err := openTest(t, s.name()).Fetch(t.Context(), key, files, dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, expected one with %q", err, test.want)
			}
			for _, f := range files {
				if _, err := os.Stat(filepath.Join(dir, f.Name)); err == nil {
					checkFiles(t, dir, []trust.File{f})
				}
			}
		})
	}
}

// TestHostileArtifacts has somebody who may push add artifacts whose files are wrong in part, of another type
// or of a negative size, and statements that are none: the right ones are found nevertheless.
func TestHostileArtifacts(t *testing.T) {
	for _, name := range []string{newServer(t, true).name(), filepath.Join(t.TempDir(), "shared")} {
		r := openTest(t, name)
		files := pushed(t, r)
		dir, _ := someFiles(t)
		err := r.pushing(t.Context(), func(target oras.GraphTarget) error {
			of, err := Subject(t.Context(), key)
			if err != nil {
				return err
			}
			for i := range 12 {
				var layers []ocispec.Descriptor
				for _, f := range files {
					data, err := os.ReadFile(filepath.Join(dir, f.Name))
					if err != nil {
						return err
					}
					if f.Name == "bzImage" {
						data = fmt.Appendf(nil, "hostile %d", i)
					}
					media, data := compressed(data)
					layer := content.NewDescriptorFromBytes(media, data)
					if err := put(t.Context(), target, layer, bytes.NewReader(data)); err != nil {
						return err
					}
					switch {
					case i%4 == 1:
						layer.MediaType = "text/plain"
					case i%4 == 2:
						layer.Size = -1
					}
					layer.Annotations = map[string]string{ocispec.AnnotationTitle: f.Name}
					layers = append(layers, layer)
				}
				for _, artifact := range []string{typeOutput, typeStatement} {
					if _, err := putManifest(t.Context(), target, artifact, &of, nil, layers...); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if err := openTest(t, name).Fetch(t.Context(), key, files, out); err != nil {
			t.Fatal(err)
		}
		checkFiles(t, out, files)
		list, err := openTest(t, name).Statements(t.Context(), key)
		if len(list) != 1 || !bytes.Equal(list[0], someStatement(1)) || err == nil {
			t.Errorf("statements %q, error %v, expected the good one, and the errors of the others", list,
				err)
		}
		pushed(t, openTest(t, name)) // they do not keep others from pushing
	}
}

// TestHang has a registry that does not answer: neb asks it once.
func TestHang(t *testing.T) {
	s := newServer(t, true)
	var asked atomic.Int32
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		<-r.Context().Done()
		return true
	})
	before := stall
	t.Cleanup(func() { stall = before })
	stall = 100 * time.Millisecond
	_, err := openTest(t, s.name()).Statements(t.Context(), key)
	if err == nil || !strings.Contains(err.Error(), s.name()) || asked.Load() != 1 {
		t.Errorf("%d requests, error %v, expected one of each", asked.Load(), err)
	}
}

// TestStall has a registry that sends a part of each blob and then nothing: neb gives it up.
func TestStall(t *testing.T) {
	s := newServer(t, true)
	files := pushed(t, openTest(t, s.name()))
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
			return false
		}
		_, _ = w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
		return true
	})
	before := stall
	t.Cleanup(func() { stall = before })
	stall = 100 * time.Millisecond
	err := openTest(t, s.name()).Fetch(t.Context(), key, files, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "sent no data") {
		t.Errorf("error %v, expected one that says so", err)
	}
}

// TestInterrupted ends each connection after a tenth of a blob: reading continues behind it.
func TestInterrupted(t *testing.T) {
	s := newServer(t, true)
	files := pushed(t, openTest(t, s.name()))
	for tenth := 1; tenth < 10; tenth++ {
		var cuts atomic.Int32
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") ||
				cuts.Add(1) > 2 {
				return false
			}
			answer := httptest.NewRecorder()
			s.registry.ServeHTTP(answer, r)
			b := answer.Body.Bytes()
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)*tenth/10])
			panic(http.ErrAbortHandler)
		})
		dir := t.TempDir()
		if err := openTest(t, s.name()).Fetch(t.Context(), key, files, dir); err != nil {
			t.Fatalf("cut after %d tenths: %v", tenth, err)
		}
		checkFiles(t, dir, files)
	}
}

// TestCredentialsStayHome has a registry that redirects to another host: that one gets no credentials.
func TestCredentialsStayHome(t *testing.T) {
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			stolen.Store(true)
		}
		w.WriteHeader(404)
	}))
	defer thief.Close()
	elsewhere := strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)
	var asked atomic.Bool
	s := newServer(t, true)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(401)
			return true
		}
		asked.Store(true)
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	config := t.TempDir()
	host := strings.TrimPrefix(s.URL, "http://")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, host) // me:secret
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", config)
	_, _ = openTest(t, s.name()).Statements(t.Context(), key)
	if !asked.Load() {
		t.Error("the registry was not asked with the credentials of the docker command")
	}
	if stolen.Load() {
		t.Error("the credentials were sent to the host of a redirect")
	}
}

// TestClaim has builders that want the same output: one at a time builds.
func TestClaim(t *testing.T) {
	before := claimTimes
	t.Cleanup(func() { claimTimes = before })
	claimTimes.settle, claimTimes.poll = 200*time.Millisecond, 20*time.Millisecond
	s := newServer(t, true)
	var built atomic.Bool
	var builds atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			r, err := Open(context.Background(), s.name())
			if err != nil {
				t.Error(err)
				return
			}
			release, err := r.Claim(context.Background(), key, func() (bool, error) {
				return built.Load(), nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			if release == nil {
				return
			}
			builds.Add(1)
			built.Store(true)
			release()
		})
	}
	group.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("%d builders built, expected 1", n)
	}
}

// TestStaleClaim has a builder that was killed: the next one takes its place.
func TestStaleClaim(t *testing.T) {
	before := claimTimes
	t.Cleanup(func() { claimTimes = before })
	claimTimes.settle, claimTimes.poll, claimTimes.stale = time.Millisecond, time.Millisecond,
		20*time.Millisecond
	s := newServer(t, true)
	r := openTest(t, s.name())
	if _, err := r.beat(t.Context(), "claim-"+key, "killed", 0); err != nil {
		t.Fatal(err)
	}
	looks := 0
	release, err := r.Claim(t.Context(), key, func() (bool, error) { looks++; return false, nil })
	if err != nil || release == nil {
		t.Fatalf("claim: %v", err)
	}
	release()
	if looks < 2 {
		t.Error("the claim was taken at once, expected to wait until it is stale")
	}
	if _, free, err := r.claim(t.Context(), "claim-"+key); !free || err != nil {
		t.Errorf("after release: free %v, error %v", free, err)
	}
}

func TestDownloads(t *testing.T) {
	dir, files := someFiles(t)
	var sums []string
	paths := map[string]string{}
	for _, f := range files {
		sums = append(sums, f.SHA256)
		paths[f.SHA256] = filepath.Join(dir, f.Name)
	}
	s := newServer(t, true)
	for _, name := range []string{s.name(), filepath.Join(t.TempDir(), "shared")} {
		r := openTest(t, name)
		if err := r.PushDownloads(t.Context(), "downloads", sums, func(s string) string {
			return paths[s]
		}); err != nil {
			t.Fatal(err)
		}
		r = openTest(t, name)
		for _, sum := range sums {
			want, err := os.ReadFile(paths[sum])
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int64{0, 1000} {
				in := r.Download(t.Context(), sum, int64(len(want)), at)
				got, err := io.ReadAll(in)
				in.Close()
				if err != nil || !bytes.Equal(got, want[at:]) {
					t.Errorf("%s from %d: %d bytes, error %v, expected %d", name, at, len(got), err,
						len(want))
				}
			}
		}
		in := r.Download(t.Context(), strings.Repeat("0", 64), 10, 0)
		if _, err := io.ReadAll(in); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: unknown download: error %v, expected ErrNotFound", name, err)
		}
	}
}
