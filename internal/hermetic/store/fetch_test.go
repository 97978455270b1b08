package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// mirrors are servers as mirrors of Debian, in this order.
func mirrors(servers ...*mirror.Server) *fetch.Mirrors {
	return &fetch.Mirrors{Archives: map[string][]string{lock.Debian: mirror.URLs(servers...)}}
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
		data := mirror.Content(1000 + i*7919)
		f := mirror.Locked(fmt.Sprintf("package%d", i), data)
		all["/"+f.Path] = data
		files = append(files, f, f) // the same twice is fetched once
	}
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) { mirror.Good(all[r.URL.Path])(w, r) })
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
	if n := len(m.Requests()); n != 20 {
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

// openToOthers lets other users come to a directory of the test's own.
func openToOthers(t *testing.T, dir string) {
	t.Helper()
	for top := filepath.Clean(os.TempDir()); dir != top &&
		strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPartOfKilled: what a process left that was killed when a download had got its permissions, but not
// its name, is gone on with by its owner.
func TestPartOfKilled(t *testing.T) {
	s, data := open(t), mirror.Content(1000)
	f := mirror.Locked("bash", data)
	path := s.in(partial, f.SHA256)
	if err := os.WriteFile(path, data, 0o444); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Root may open anything: this thread is somebody else on the file system, who has to reach the
		// store.
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
	p, err := s.openPart(f)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if have, err := io.ReadAll(p); !bytes.Equal(have, data) {
		t.Errorf("the part has %d bytes, expected %d (%v)", len(have), len(data), err)
	}
}

func TestOffline(t *testing.T) {
	s := open(t)
	data := mirror.Content(10)
	have, missing, damaged := mirror.Locked("have", data), mirror.Locked("missing", mirror.Content(11)),
		mirror.Locked("damaged",
			mirror.Content(12))
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
	data := mirror.Content(5000)
	f := mirror.Locked("bash", data)
	m := mirror.Serve(t, mirror.Good(data))
	for name, bad := range map[string][]byte{"truncated": data[:100], "corrupted": make([]byte, 5000),
		"empty": nil} {
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

// TestChangedLock has a lock in which somebody changed a hash or a size, while the store and the mirror have
// the file that was locked before.
func TestChangedLock(t *testing.T) {
	data := mirror.Content(5000)
	good := mirror.Locked("bash", data)
	m := mirror.Serve(t, mirror.Good(data))
	s := open(t)
	if err := s.Fetch(t.Context(), []lock.File{good}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
		t.Fatal(err)
	}
	hash, size := good, good
	hash.SHA256 = mirror.Hash(make([]byte, 5000))
	size.Size++
	for want, f := range map[string]lock.File{"expected SHA-256 " + hash.SHA256: hash,
		"expected 5001 bytes": size} {
		err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected %s", err, want)
		}
	}
	if _, err := os.Stat(s.Path(hash)); err == nil {
		t.Error("the store has a file under the changed hash")
	}
}

func TestFetchCancelled(t *testing.T) {
	data := mirror.Content(100_000)
	f := mirror.Locked("bash", data)
	started := make(chan struct{}, 1)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
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
	again := mirror.Serve(t, mirror.Good(data))
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(again)}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, data)
	if got := again.Requests(); len(got) != 1 || !strings.HasSuffix(got[0], "bytes=50000-") {
		t.Errorf("expected the download to go on at 50000, found %q", got)
	}
}

// Two who find the same damaged file both get a good one.
func TestDamagedForTwo(t *testing.T) {
	data := mirror.Content(1000)
	f := mirror.Locked("bash", data)
	m := mirror.Serve(t, mirror.Good(data))
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
					err = errors.Join(o.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}),
						o.Close())
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
	data := mirror.Content(1000)
	f := mirror.Locked("bash", data)
	m := mirror.Serve(t, mirror.Good(data))
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
	if gone, err := other.Prune(t.Context(), all); err != nil || len(gone) > 0 {
		t.Errorf("%v was pruned while it was used, %v", gone, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if gone, err := other.Prune(t.Context(), all); err != nil || len(gone) != 1 {
		t.Errorf("%v was pruned, %v", gone, err)
	}
}
