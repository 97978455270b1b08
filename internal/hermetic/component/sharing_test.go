package component

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/registries"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

func signingKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A site is a machine with a store of its own that shares builds.
type site struct {
	*Builder
	notes  bytes.Buffer
	builds atomic.Int32 // of job
	text   string       // what its builds make
}

func newSite(t *testing.T, remotes []string, trusted ...crypto.Signer) *site {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &site{text: "the program"}
	sharing := &Sharing{Keys: new(trust.Keys)}
	for i, key := range trusted {
		if _, err := sharing.Keys.Trust(string(rune('a'+i)), trust.Builds, key.Public(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range remotes {
		r, err := remote.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		sharing.Remotes = append(sharing.Remotes, r)
	}
	var mu sync.Mutex
	s.Builder = &Builder{Store: st, Sharing: sharing, Progress: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		s.notes.WriteString(e.Note + "\n")
	}}
	return s
}

// job makes a program with some inputs.
func (s *site) job(inputs ...Input) job {
	return job{name: "init", arch: "x86_64", inputs: inputs, make: func(_ context.Context, r *run) error {
		s.builds.Add(1)
		return os.WriteFile(filepath.Join(r.dir, "init"), []byte(s.text), 0o755)
	}}
}

var someInput = Input{Kind: "source file", Name: "main.go", SHA256: strings.Repeat("12", 32)}

// built builds the job and returns how often it was made and the program.
func (s *site) built(t *testing.T) (int, string) {
	t.Helper()
	o, err := s.build(t.Context(), s.job(someInput))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.Dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	return int(s.builds.Load()), string(text)
}

// share has a machine with a key build the program and push it. The text is what it makes.
func share(t *testing.T, at, text string, key crypto.Signer) {
	t.Helper()
	s := newSite(t, []string{at}, key)
	s.text = text
	s.Sharing.Signer = key
	// It builds even if the remote has the program.
	s.Sharing.Keys = new(trust.Keys)
	if n, _ := s.built(t); n != 1 {
		t.Fatalf("%d builds, expected 1", n)
	}
	if strings.Contains(s.notes.String(), "not shared") {
		t.Fatal(s.notes.String())
	}
}

func TestSharing(t *testing.T) {
	alice, bob, stranger := signingKey(t), signingKey(t), signingKey(t)
	const right, wrong = "the program", "another program"
	for _, test := range []struct {
		name   string
		shared func(t *testing.T, at string) // fills the remote
		change func(s *site)                 // of the machine that takes
		builds int
		note   string // in its notes
	}{
		{name: "taken", builds: 0, note: "taken from a remote",
			shared: func(t *testing.T, at string) { share(t, at, right, alice) }},
		{name: "nothing there", builds: 1, note: "not found", shared: func(*testing.T, string) {}},
		{name: "signed by a stranger", builds: 1, note: "not signed by a trusted key",
			shared: func(t *testing.T, at string) { share(t, at, wrong, stranger) }},
		{name: "a stranger beside a trusted key", builds: 0,
			shared: func(t *testing.T, at string) {
				share(t, at, wrong, stranger)
				share(t, at, right, alice)
			}},
		{name: "removed key", builds: 1, note: "not signed by a trusted key",
			shared: func(t *testing.T, at string) { share(t, at, wrong, alice) },
			change: func(s *site) { s.Sharing.Keys = new(trust.Keys) }},
		{name: "expired key", builds: 1, note: "expired",
			shared: func(t *testing.T, at string) { share(t, at, wrong, alice) },
			change: func(s *site) {
				s.Sharing.Keys = new(trust.Keys)
				past := time.Now().Add(-time.Hour)
				if _, err := s.Sharing.Keys.Trust("a", trust.Builds, alice.Public(), &past); err != nil {
					panic(err)
				}
			}},
		{name: "two are required and one states", builds: 1,
			note:   "1 trusted keys state its files, 2 are required",
			shared: func(t *testing.T, at string) { share(t, at, right, alice) },
			change: func(s *site) { s.Sharing.Require = 2 }},
		{name: "two are required and one states twice", builds: 1, note: "2 are required",
			shared: func(t *testing.T, at string) { share(t, at, right, alice); share(t, at, right, alice) },
			change: func(s *site) { s.Sharing.Require = 2 }},
		{name: "two are required and two state", builds: 0,
			shared: func(t *testing.T, at string) { share(t, at, right, alice); share(t, at, right, bob) },
			change: func(s *site) { s.Sharing.Require = 2 }},
		{name: "trusted keys disagree", builds: 1, note: "trusted keys disagree",
			shared: func(t *testing.T, at string) { share(t, at, right, alice); share(t, at, wrong, bob) }},
		{name: "statement of another build", builds: 1, note: "statement is about",
			shared: func(t *testing.T, at string) { replay(t, at, alice) }},
		{name: "offline", builds: 1,
			shared: func(t *testing.T, at string) { share(t, at, right, alice) },
			change: func(s *site) { s.Offline = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := filepath.Join(t.TempDir(), "shared")
			test.shared(t, at)
			s := newSite(t, []string{at}, alice, bob)
			if test.change != nil {
				test.change(s)
			}
			n, text := s.built(t)
			if n != test.builds || text != right {
				t.Errorf("%d builds, program %q, expected %d builds, %q\n%s", n, text, test.builds, right,
					&s.notes)
			}
			if !strings.Contains(s.notes.String(), test.note) {
				t.Errorf("notes:\n%s\nexpected one with %q", &s.notes, test.note)
			}
		})
	}
}

// replay pushes a true statement and its files under the key of another build.
func replay(t *testing.T, at string, key crypto.Signer) {
	t.Helper()
	s := newSite(t, nil)
	other := s.job(Input{Kind: "source file", Name: "evil.go", SHA256: strings.Repeat("66", 32)})
	rec := Record{Component: "init", Arch: "x86_64", Isolation: "namespaces",
		Files: []File{{Name: "init", SHA256: strings.Repeat("77", 32)}}}
	statement, _, err := rec.sign(t.Context(), other.key(), key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := remote.Open(t.Context(), at)
	if err == nil {
		err = r.State(t.Context(), s.job(someInput).key(), statement)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamagedRemote changes one byte in each file of a remote: the program is built, or taken unharmed.
func TestDamagedRemote(t *testing.T) {
	alice := signingKey(t)
	at := filepath.Join(t.TempDir(), "shared")
	share(t, at, "the program", alice)
	blobs, err := filepath.Glob(filepath.Join(at, "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 5 {
		t.Fatalf("%d blobs, %v", len(blobs), err)
	}
	for _, blob := range blobs {
		before, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(before)
		changed[len(changed)/2] ^= 1
		_ = os.Chmod(blob, 0o644)
		if err := os.WriteFile(blob, changed, 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := remote.Open(t.Context(), at)
		if err == nil {
			s := newSite(t, nil, alice)
			s.Sharing.Remotes = []*remote.Remote{r}
			if _, text := s.built(t); text != "the program" {
				t.Errorf("%s: program %q", blob, text)
			}
		}
		if err := os.WriteFile(blob, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPullOnly fails where it would build.
func TestPullOnly(t *testing.T) {
	s := newSite(t, []string{filepath.Join(t.TempDir(), "none")})
	s.Sharing.NoBuild = true
	_, err := s.build(t.Context(), s.job(someInput))
	if !errors.Is(err, remote.ErrNotFound) || s.builds.Load() != 0 {
		t.Errorf("error %v and %d builds, expected ErrNotFound and none", err, s.builds.Load())
	}
}

// TestBrokenRemote has a registry that fails: the program is built, and the other remote is asked.
func TestBrokenRemote(t *testing.T) {
	alice := signingKey(t)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	}))
	defer broken.Close()
	name := strings.TrimPrefix(broken.URL, "http://") + "/team/neb"
	s := newSite(t, []string{name}, alice)
	if n, _ := s.built(t); n != 1 || !strings.Contains(s.notes.String(), "403") {
		t.Errorf("%d builds, expected one and a note with the status:\n%s", n, &s.notes)
	}
	at := filepath.Join(t.TempDir(), "shared")
	share(t, at, "the program", alice)
	s = newSite(t, []string{name, at}, alice)
	if n, _ := s.built(t); n != 0 {
		t.Errorf("%d builds, expected none\n%s", n, &s.notes)
	}
}

// TestPushAgain pushes nothing new if the remote has the same statement.
func TestPushAgain(t *testing.T) {
	alice := signingKey(t)
	at := filepath.Join(t.TempDir(), "shared")
	share(t, at, "the program", alice)
	share(t, at, "the program", alice)
	r, err := remote.Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.Statements(t.Context(), newSite(t, nil).job(someInput).key())
	if err != nil || len(list) != 1 {
		t.Fatalf("%d statements, error %v, expected 1", len(list), err)
	}
	var e sign.Envelope
	if err := json.Unmarshal(list[0], &e); err != nil {
		t.Error(err)
	}
}

// TestFleet has 50 machines that want the same program from one registry at the same time: one builds.
func TestFleet(t *testing.T) {
	alice := signingKey(t)
	name := registries.Referrers(t) + "/team/neb"
	var builds atomic.Int32
	var group sync.WaitGroup
	for range 50 {
		s := newSite(t, []string{name}, alice)
		s.Sharing.Signer, s.Sharing.Wait = alice, true
		group.Go(func() {
			o, err := s.build(context.Background(), s.job(someInput))
			if err != nil {
				t.Error(err)
				return
			}
			if o.Files[0].SHA256 != hashText("the program") {
				t.Errorf("program with SHA-256 %s", o.Files[0].SHA256)
			}
			builds.Add(s.builds.Load())
		})
	}
	group.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("%d machines built the program, expected 1", n)
	}
}
