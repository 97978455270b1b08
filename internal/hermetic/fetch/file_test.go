package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
)

// mirrors are servers as mirrors of Debian, in this order.
func mirrors(servers ...*mirror.Server) Mirrors {
	return Mirrors{Archives: map[string][]string{lock.Debian: mirror.URLs(servers...)}}
}

// stalling is mirrors with a time to wait for data.
func stalling(stall time.Duration, servers ...*mirror.Server) Mirrors {
	m := mirrors(servers...)
	m.stall = stall
	return m
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

// download is Mirrors.File into a file that holds have. It returns what the file holds then, and the notes.
func download(t *testing.T, m Mirrors, f lock.File, have []byte) (data []byte, notes []string,
	err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(path, have, 0o644); err != nil {
		t.Fatal(err)
	}
	to, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var done int64
	err = m.File(t.Context(), f, to, func(n int64, note string) {
		if done += n; note != "" {
			notes = append(notes, note)
		}
	})
	data, readErr := os.ReadFile(path)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if done != int64(len(data)) {
		t.Errorf("reported %d bytes, and the file has %d", done, len(data))
	}
	if err == nil && mirror.Hash(data) != f.SHA256 {
		t.Errorf("no error, and the content is wrong")
	}
	return data, notes, err
}

// TestBadMirrors has a first mirror that fails in some way. The second one, which is good, has to help out,
// and alone the first has to end in an error that names the file, the mirror, and what was wrong.
func TestBadMirrors(t *testing.T) {
	data := mirror.Content(300_000)
	f := mirror.Locked("binutils", data)
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
		// what the error says when there is no other mirror; {hash} and {other} stand for sums
		alone []string
	}{
		{"missing", http.NotFound,
			[]string{"1 files of neb.lock are gone", "neb update", "--update-missing", "NEB_MIRROR",
				"not found"}},
		{"gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) },
			[]string{"neb update"}},
		{"one bit wrong", mirror.Good(other),
			[]string{"wrong content", f.Path, "expected SHA-256 {hash}", "found {other}"}},
		{"too short", mirror.Good(data[:1000]), []string{"wrong size", "expected 300000 bytes",
			"found 1000"}},
		{"too long", mirror.Good(append(other, 0)), []string{"wrong size", "expected 300000 bytes",
			"found 300001"}},
		{"too long, without a length", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(append(other, 0))
		}, []string{"wrong size", "expected 300000 bytes"}},
		{"truncated", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			_, _ = w.Write(data[:10_000])
		}, []string{"unexpected EOF"}},
		{"error 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
			[]string{"answered 500"}},
		{"error page", func(w http.ResponseWriter, _ *http.Request) {
			_,
				_ = w.Write([]byte("<html>sign in</html>"))
		}, []string{"wrong size", "found 20"}},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) },
			[]string{"answered 403"}},
		{"hangs at once", func(_ http.ResponseWriter, r *http.Request) { wait(r) },
			[]string{"sent no data for"}},
		{"hangs in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
			wait(r)
		}, []string{"sent no data for"}},
		{"sends a byte now and then", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			for at := 0; at < len(data) && r.Context().Err() == nil; at++ {
				_, _ = w.Write(data[at : at+1])
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}, []string{"sent "}},
		{"breaks off after a byte", func(w http.ResponseWriter, r *http.Request) {
			var from int
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[from : from+1])
		}, []string{"unexpected EOF"}},
		{"hangs up", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, []string{"EOF"}},
		{"wrong range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 7-9/300000")
			w.WriteHeader(http.StatusPartialContent)
		}, []string{"range"}},
		{"redirects in circles", func(w http.ResponseWriter,
			r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, []string{"redirects"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, second := mirror.Serve(t, tt.handler), mirror.Serve(t, mirror.Good(data))
			const stall = 700 * time.Millisecond
			_, notes, err := download(t, stalling(stall, bad, second), f, nil)
			if err != nil {
				t.Fatalf("with a good second mirror: %v", err)
			}
			if len(notes) == 0 || !strings.Contains(notes[0], bad.URL) {
				t.Errorf("expected a note about %s, found %q", bad.URL, notes)
			}
			left, _, err := download(t, stalling(stall, bad), f, nil)
			wants(t, err, "binutils 1.0-1", bad.URL)
			for _, w := range tt.alone {
				wants(t, err, strings.NewReplacer("{hash}", f.SHA256, "{other}",
					mirror.Hash(other)).Replace(w))
			}
			// What the bad mirror sent must not get in the way of a good one.
			if _, _, err := download(t, mirrors(second), f, left); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAllMirrorsWrong(t *testing.T) {
	data := mirror.Content(5000)
	f := mirror.Locked("gcc-14", data)
	a, b := mirror.Serve(t, mirror.Good(mirror.Content(4999))),
		mirror.Serve(t, mirror.Good(make([]byte, 5000)))
	_, _, err := download(t, mirrors(a, b), f, nil)
	wants(t, err, "gcc-14 1.0-1", a.URL, "found 4999", b.URL, "expected SHA-256 "+f.SHA256,
		"found "+mirror.Hash(make([]byte, 5000)))
}

// TestMissingAndUnreachable: the mirror lacks the file, and the snapshots cannot be asked.
func TestMissingAndUnreachable(t *testing.T) {
	gone, down := mirror.Serve(t, http.NotFound), mirror.Serve(t, http.NotFound)
	down.Close()
	m := mirrors(gone)
	m.Snapshots = down.URL
	_, _, err := download(t, m, mirror.Locked("bash", mirror.Content(100)), nil)
	var missing *GoneError
	if !errors.As(err, &missing) || len(missing.Files) != 1 || missing.Files[0].Name != "bash" {
		t.Errorf("expected bash to be missing, found %v", err)
	}
	wants(t, err, "bash 1.0-1", "download failed", "neb update", "--update-missing", gone.URL, "not found",
		down.URL, "refused")
}

func TestNoMirror(t *testing.T) {
	f := mirror.Locked("golang.org/toolchain", []byte("zip"))
	for archive, hint := range map[string]string{lock.Debian: "NEB_MIRROR", lock.GoProxy: "GOPROXY"} {
		f.Archive = archive
		_, _, err := download(t, Mirrors{}, f, nil)
		wants(t, err, "no mirror is configured", hint)
	}
}

// TestResume interrupts a download in the middle, and wants the rest alone to be asked for.
func TestResume(t *testing.T) {
	data := mirror.Content(1_000_000)
	f := mirror.Locked("linux-source-6.12", data)
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
			m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.ranges {
					mirror.Good(data)(w, r)
					return
				}
				_, _ = w.Write(data)
			})
			if _, _, err := download(t, mirrors(m), f, tt.have); err != nil {
				t.Fatal(err)
			}
			if tt.asked != "" && (len(m.Requests()) == 0 || !strings.HasSuffix(m.Requests()[0], tt.asked)) {
				t.Errorf("expected the first request to ask for %s, found %q", tt.asked, m.Requests())
			}
		})
	}
}

// TestRedirectToFile: a mirror cannot make neb open a file of this machine, even the right one.
func TestRedirectToFile(t *testing.T) {
	data := mirror.Content(1000)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file://"+path, http.StatusFound)
	})
	_, _, err := download(t, mirrors(m), mirror.Locked("bash", data), nil)
	wants(t, err, "redirects to file://"+path)
}

// TestStalledMirror: the only mirror stops sending in the middle, once, and is asked for the rest.
func TestStalledMirror(t *testing.T) {
	data := mirror.Content(200_000)
	f := mirror.Locked("linux-source-6.12", data)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	var asked atomic.Int32
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			mirror.Good(data)(w, r)
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
	if _, _, err := download(t, stalling(300*time.Millisecond, m), f, nil); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("expected two requests, found %d", n)
	}
}

// TestFlakyMirror breaks off every 100 kB: each request goes on where the one before ended.
func TestFlakyMirror(t *testing.T) {
	data := mirror.Content(1_000_000)
	f := mirror.Locked("linux-source-6.12", data)
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data[from:min(len(data), from+100_000)])
	})
	if _, _, err := download(t, mirrors(m), f, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(m.Requests()); n < 10 || n > 12 {
		t.Errorf("expected about 10 requests, found %d", n)
	}
}

func TestSnapshotAndProxy(t *testing.T) {
	data := mirror.Content(100)
	f := mirror.Locked("bash", data)
	f.Version, f.Path = "5.2+x~1", "pool/main/b/bash/bash_5.2+x~1_amd64.deb"
	snapshot := mirror.Serve(t, mirror.Good(data))
	old := mirror.Serve(t, http.NotFound)
	m := mirrors(old)
	m.Snapshots = snapshot.URL + "/archive"
	if _, _, err := download(t, m, f, nil); err != nil {
		t.Fatal(err)
	}
	want, got := "/archive/debian/20261120T083000Z/pool/main/b/bash/bash_5.2+x~1_amd64.deb",
		snapshot.Requests()
	if len(got) != 1 || got[0] != want {
		t.Errorf("expected %s to be asked for at the snapshots, found %q", want, got)
	}

	zip := mirror.Content(200)
	g := lock.File{Name: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64",
		Archive: lock.GoProxy,
		Path:    "golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip", Size: 200,
		SHA256: mirror.Hash(zip)}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, g.Path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, g.Path), zip, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Proxies = []string{old.URL, (&url.URL{Scheme: "file", Path: dir}).String()}
	if _, _, err := download(t, m, g, nil); err != nil {
		t.Fatal(err)
	}
}
