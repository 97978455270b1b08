package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// content is n bytes that are the same in every run.
func content(n int) []byte {
	random := rand.NewChaCha8([32]byte{7})
	data := make([]byte, n)
	_, _ = random.Read(data)
	return data
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// locked is the file that a lock would name for data.
func locked(name string, data []byte) lock.File {
	return lock.File{
		Name: name, Version: "1.0-1", Arch: "amd64", Archive: lock.Debian, Path: "pool/main/" + name + "_1.0-1_amd64.deb",
		Snapshot: time.Date(2026, 11, 20, 8, 30, 0, 0, time.UTC), Size: int64(len(data)), SHA256: hashOf(data),
	}
}

// server is a mirror that does what its handler says, and counts.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // path, and the Range asked for
}

func serve(t *testing.T, handler http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
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

func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// many are n files, and a mirror that has them all.
func many(t *testing.T, n int) ([]lock.File, *server) {
	t.Helper()
	all := map[string]http.HandlerFunc{}
	var files []lock.File
	for i := range n {
		data := content(100 + i)
		f := locked(fmt.Sprint("p", i), data)
		files = append(files, f)
		all["/"+f.Path] = good(data)
	}
	return files, serve(t, func(w http.ResponseWriter, r *http.Request) { all[r.URL.Path](w, r) })
}

// good serves data as a mirror should.
func good(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// mirrors are servers as mirrors of Debian, in this order.
func mirrors(servers ...*server) *fetch.Mirrors {
	m := &fetch.Mirrors{Archives: map[string][]string{}}
	for _, s := range servers {
		m.Archives[lock.Debian] = append(m.Archives[lock.Debian], s.URL)
	}
	return m
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// check fails the test unless the store holds the file with its content, and nothing unfinished.
func check(t *testing.T, s *Store, f lock.File, data []byte) {
	t.Helper()
	got, err := os.ReadFile(s.Path(f))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s: expected its %d bytes in the store, found %d (%v)", f.Name, len(data), len(got), err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), partial)); len(left) > 0 {
		t.Errorf("%d unfinished downloads are left", len(left))
	}
}

// absent fails the test if the store has a download.
func absent(t *testing.T, s *Store) {
	t.Helper()
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), downloads)); len(left) > 0 {
		t.Errorf("a bad file is in the store: %v", left)
	}
}

// wants fails the test unless the error says all of the words.
func wants(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("expected an error that says %q, found none", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("expected the error to say %q, found: %v", w, err)
		}
	}
}

func TestFetch(t *testing.T) {
	s := open(t)
	all := map[string][]byte{}
	var files []lock.File
	for i := range 20 {
		data := content(1000 + i*7919)
		f := locked(fmt.Sprintf("package%d", i), data)
		all["/"+f.Path] = data
		files = append(files, f, f) // the same twice is fetched once
	}
	m := serve(t, func(w http.ResponseWriter, r *http.Request) { good(all[r.URL.Path])(w, r) })
	var mu sync.Mutex
	var last progress.Event
	o := FetchOptions{Mirrors: mirrors(m), Progress: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		last = e
	}}
	if err := s.Fetch(t.Context(), files, o); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		check(t, s, f, all["/"+f.Path])
	}
	if n := len(m.asked()); n != 20 {
		t.Errorf("expected 20 requests, found %d", n)
	}
	var total int64
	for _, data := range all {
		total += int64(len(data))
	}
	if want := (progress.Event{Stage: "fetch", Done: total, Total: total, Unit: "bytes"}); last != want {
		t.Errorf("expected progress to end with %v, found %v", want, last)
	}
	// What is there is not asked for again, nor are mirrors needed for it.
	m.Close()
	if err := s.Fetch(t.Context(), files, FetchOptions{Offline: true}); err != nil {
		t.Error(err)
	}
}

// TestBadMirrors has a first mirror that fails in some way. The second one, which is good, has to help out, and
// alone the first has to end in an error that names the file, the mirror, and what was wrong.
func TestBadMirrors(t *testing.T) {
	data := content(300_000)
	f := locked("binutils", data)
	other := append([]byte(nil), data...)
	other[123_456] ^= 1
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	wait := func(r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		alone   []string // what the error says when there is no other mirror; {hash} and {other} stand for sums
	}{
		{"missing", http.NotFound, []string{"no mirror has pool/main/binutils_1.0-1_amd64.deb", "neb update", "not there"}},
		{"gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, []string{"neb update"}},
		{"one bit wrong", good(other), []string{"wrong content", f.Path, "expected SHA-256 {hash}", "found {other}"}},
		{"too short", good(data[:1000]), []string{"wrong size", "expected 300000 bytes", "found 1000"}},
		{"too long", good(append(other, 0)), []string{"wrong size", "expected 300000 bytes", "found 300001"}},
		{"too long, without a length", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(append(other, 0))
		}, []string{"wrong size", "expected 300000 bytes"}},
		{"truncated", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			_, _ = w.Write(data[:10_000])
		}, []string{"unexpected EOF"}},
		{"error 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, []string{"answered 500"}},
		{"error page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>sign in</html>")) }, []string{"wrong size", "found 20"}},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, []string{"answered 403"}},
		{"hangs at once", func(_ http.ResponseWriter, r *http.Request) { wait(r) }, []string{"sent nothing for"}},
		{"hangs in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
			wait(r)
		}, []string{"sent nothing for"}},
		{"hangs up", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, []string{"EOF"}},
		{"wrong range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 7-9/300000")
			w.WriteHeader(http.StatusPartialContent)
		}, []string{"range"}},
		{"redirects in circles", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, []string{"redirects"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, second := serve(t, tt.handler), serve(t, good(data))
			o := FetchOptions{Mirrors: mirrors(bad, second), Client: fetch.Client{Stall: 2 * time.Second}}
			var mu sync.Mutex
			var notes []string
			o.Progress = func(e progress.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Note != "" {
					notes = append(notes, e.Note)
				}
			}
			s := open(t)
			if err := s.Fetch(t.Context(), []lock.File{f}, o); err != nil {
				t.Fatalf("with a good second mirror: %v", err)
			}
			check(t, s, f, data)
			if len(notes) == 0 || !strings.Contains(notes[0], bad.URL) {
				t.Errorf("expected a note about %s, found %q", bad.URL, notes)
			}

			o.Mirrors = mirrors(bad)
			s = open(t)
			err := s.Fetch(t.Context(), []lock.File{f}, o)
			wants(t, err, "binutils 1.0-1", bad.URL)
			for _, w := range tt.alone {
				wants(t, err, strings.NewReplacer("{hash}", f.SHA256, "{other}", hashOf(other)).Replace(w))
			}
			absent(t, s)
			// And when the mirror is right again, nothing of all that stands in the way.
			o.Mirrors = mirrors(second)
			if err := s.Fetch(t.Context(), []lock.File{f}, o); err != nil {
				t.Fatal(err)
			}
			check(t, s, f, data)
		})
	}
}

func TestAllMirrorsWrong(t *testing.T) {
	data := content(5000)
	f := locked("gcc-14", data)
	a, b := serve(t, good(content(4999))), serve(t, good(make([]byte, 5000)))
	s := open(t)
	err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(a, b)})
	wants(t, err, "gcc-14 1.0-1", a.URL, "found 4999", b.URL, "expected SHA-256 "+f.SHA256, "found "+hashOf(make([]byte, 5000)))
	absent(t, s)
}

// TestMissingAndUnreachable: the mirror lacks the file, and the snapshots cannot be asked.
func TestMissingAndUnreachable(t *testing.T) {
	gone, down := serve(t, http.NotFound), serve(t, http.NotFound)
	down.Close()
	m := mirrors(gone)
	m.Snapshots = down.URL
	s := open(t)
	err := s.Fetch(t.Context(), []lock.File{locked("bash", content(100))}, FetchOptions{Mirrors: m})
	wants(t, err, "bash 1.0-1", "could not be fetched", "neb update", gone.URL, "not there", down.URL, "refused")
}

func TestNoMirror(t *testing.T) {
	s := open(t)
	none := &fetch.Mirrors{}
	wants(t, s.Fetch(t.Context(), []lock.File{locked("a", []byte("a"))}, FetchOptions{Mirrors: none}), "no mirror to ask", "NEB_MIRROR")
	f := locked("golang.org/toolchain", []byte("zip"))
	f.Archive = lock.GoProxy
	wants(t, s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: none}), "no mirror to ask", "GOPROXY")
}

// TestResume interrupts a download in the middle, and wants the rest alone to be asked for.
func TestResume(t *testing.T) {
	data := content(1_000_000)
	f := locked("linux-source-6.12", data)
	for _, tt := range []struct {
		name   string
		ranges bool   // the mirror can begin in the middle
		have   []byte // what is there already
		asked  string
	}{
		{"goes on", true, data[:600_000], "bytes=600000-"},
		{"mirror without ranges", false, data[:600_000], "bytes=600000-"},
		{"what is there is wrong", true, make([]byte, 600_000), "bytes=600000-"},
		{"all is there but the name", true, data, ""},
		{"too much is there", true, append(append([]byte(nil), data...), 1), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			if err := os.WriteFile(s.in(partial, f.SHA256), tt.have, 0o644); err != nil {
				t.Fatal(err)
			}
			m := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.ranges {
					good(data)(w, r)
					return
				}
				_, _ = w.Write(data)
			})
			if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
				t.Fatal(err)
			}
			check(t, s, f, data)
			if tt.asked != "" && (len(m.asked()) == 0 || !strings.HasSuffix(m.asked()[0], tt.asked)) {
				t.Errorf("expected the first request to ask for %s, found %q", tt.asked, m.asked())
			}
		})
	}
}

// openToOthers lets other users come to a directory of the test's own.
func openToOthers(t *testing.T, dir string) {
	t.Helper()
	for top := filepath.Clean(os.TempDir()); dir != top && strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPartOfKilled: what a process left that was killed when a download had got its permissions, but not its name, is gone on with by its owner.
func TestPartOfKilled(t *testing.T) {
	s, data := open(t), content(1000)
	f := locked("bash", data)
	path := s.in(partial, f.SHA256)
	if err := os.WriteFile(path, data, 0o444); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Root may open anything: this thread is somebody else on the file system, who has to reach the store.
		const other = 65534
		openToOthers(t, s.Dir())
		if err := os.Chown(path, other, other); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(other); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrPermission) {
			require.Lacks(t, "a TMPDIR that other users can reach")
		}
	}
	p, err := s.openPart(f, new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	defer p.f.Close()
	if p.have != int64(len(data)) {
		t.Errorf("%d bytes are taken over, expected %d", p.have, len(data))
	}
}

// TestStalledMirror: the only mirror stops sending in the middle, once, and is asked for the rest.
func TestStalledMirror(t *testing.T) {
	data := content(200_000)
	f := locked("linux-source-6.12", data)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	var asked atomic.Int32
	m := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			good(data)(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:100_000])
		w.(http.Flusher).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	s := open(t)
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m), Client: fetch.Client{Stall: 300 * time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, data)
	if n := asked.Load(); n != 2 {
		t.Errorf("expected two requests, found %d", n)
	}
}

// TestFlakyMirror breaks off every 100 kB: each request goes on where the one before ended.
func TestFlakyMirror(t *testing.T) {
	data := content(1_000_000)
	f := locked("linux-source-6.12", data)
	m := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data[from:min(len(data), from+100_000)])
	})
	s := open(t)
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, data)
	if n := len(m.asked()); n < 10 || n > 12 {
		t.Errorf("expected about 10 requests, found %d", n)
	}
}

// TestSlowMirrorLast: what stalled once is not waited for again with every file.
func TestSlowMirrorLast(t *testing.T) {
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	bad := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	files, m := many(t, 12)
	s := open(t)
	err := s.Fetch(t.Context(), files, FetchOptions{Mirrors: mirrors(bad, m), Client: fetch.Client{Stall: time.Second}, Parallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(bad.asked()); n > 2 {
		t.Errorf("expected the mirror that hangs to be asked at most once by each of 2 downloads, found %d times", n)
	}
}

func TestSnapshotAndProxy(t *testing.T) {
	data := content(100)
	f := locked("bash", data)
	f.Version, f.Path = "5.2+x~1", "pool/main/b/bash/bash_5.2+x~1_amd64.deb"
	snapshot := serve(t, good(data))
	old := serve(t, http.NotFound)
	m := mirrors(old)
	m.Snapshots = snapshot.URL + "/archive"
	s := open(t)
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: m}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, data)
	if want, got := "/archive/debian/20261120T083000Z/pool/main/b/bash/bash_5.2+x~1_amd64.deb", snapshot.asked(); len(got) != 1 || got[0] != want {
		t.Errorf("expected %s to be asked for at the snapshots, found %q", want, got)
	}

	zip := content(200)
	g := lock.File{Name: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64", Archive: lock.GoProxy,
		Path: "golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip", Size: 200, SHA256: hashOf(zip)}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, g.Path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, g.Path), zip, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Proxies = []string{old.URL, (&url.URL{Scheme: "file", Path: dir}).String()}
	if err := s.Fetch(t.Context(), []lock.File{g}, FetchOptions{Mirrors: m}); err != nil {
		t.Fatal(err)
	}
	check(t, s, g, zip)
}

func TestOffline(t *testing.T) {
	s := open(t)
	data := content(10)
	have, missing, damaged := locked("have", data), locked("missing", content(11)), locked("damaged", content(12))
	for _, f := range []lock.File{have, damaged} {
		if err := os.WriteFile(s.Path(f), data, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Fetch(t.Context(), []lock.File{have, missing, damaged}, FetchOptions{Offline: true})
	wants(t, err, "2 files", "--offline", missing.Path, damaged.Path)
	if strings.Contains(err.Error(), have.Path) {
		t.Errorf("names a file that is there: %v", err)
	}
}

func TestDamagedInStore(t *testing.T) {
	data := content(5000)
	f := locked("bash", data)
	m := serve(t, good(data))
	for name, bad := range map[string][]byte{"truncated": data[:100], "corrupted": make([]byte, 5000), "empty": nil} {
		s := open(t)
		if err := os.WriteFile(s.Path(f), bad, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		check(t, s, f, data)
	}
}

func TestFetchCancelled(t *testing.T) {
	data := content(100_000)
	f := locked("bash", data)
	started := make(chan struct{}, 1)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	m := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(data[:50_000])
		w.(http.Flusher).Flush()
		started <- struct{}{}
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user said stop")
	go func() {
		<-started
		time.Sleep(50 * time.Millisecond)
		cancel(why)
	}()
	s := open(t)
	if err := s.Fetch(ctx, []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); !errors.Is(err, why) {
		t.Errorf("expected %v, found %v", why, err)
	}
	absent(t, s)
	again := serve(t, good(data))
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(again)}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, data)
	if got := again.asked(); len(got) != 1 || !strings.HasSuffix(got[0], "bytes=50000-") {
		t.Errorf("expected the download to go on at 50000, found %q", got)
	}
}

// A mirror that swallows packets ends in the dialler's time limit: the others are asked first from then on.
func TestSwallowedPackets(t *testing.T) {
	files, m := many(t, 8)
	bad := serve(t, http.NotFound)
	var dialled atomic.Int32
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasSuffix(bad.URL, address) {
			dialled.Add(1)
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	if err := open(t).Fetch(t.Context(), files, FetchOptions{Mirrors: mirrors(bad, m), Client: fetch.Client{HTTP: client}, Parallel: 2}); err != nil {
		t.Fatal(err)
	}
	if n := dialled.Load(); n < 1 || n > 2 {
		t.Errorf("the mirror was tried %d times, expected once by each of 2 downloads", n)
	}
}

// Two who find the same damaged file both get a good one.
func TestDamagedForTwo(t *testing.T) {
	data := content(1000)
	f := locked("bash", data)
	m := serve(t, good(data))
	s := open(t)
	for range 50 {
		os.Remove(s.Path(f))
		if err := os.WriteFile(s.Path(f), []byte("damaged"), 0o444); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				o, err := Open(s.Dir())
				if err == nil {
					err = errors.Join(o.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}), o.Close())
				}
				errs <- err
			}()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Fatal(err)
		}
	}
}

// What was fetched stays while somebody builds with it.
func TestPruneFetched(t *testing.T) {
	data := content(1000)
	f := locked("bash", data)
	m := serve(t, good(data))
	s := open(t)
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
		t.Fatal(err)
	}
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	all := func(Item) bool { return true }
	if gone, err := other.Prune(all); err != nil || len(gone) > 0 {
		t.Errorf("%v was pruned while it was used, %v", gone, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if gone, err := other.Prune(all); err != nil || len(gone) != 1 {
		t.Errorf("%v was pruned, %v", gone, err)
	}
}
