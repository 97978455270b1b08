//go:build linux

package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
)

// cached fills a store with a locked download, an unlocked one, an unfinished one, an output and the log of
// one that failed, all old, and with what a kill leaves of an output being made.
func cached(t *testing.T) (dir string, f lock.File) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	t.Setenv("NEB_CACHE", dir)
	s, err := store.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	f = l.Packages[0].File
	if _, _, err := s.Output(t.Context(), "init-x86_64-0123", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "init"), make([]byte, 1000), 0o755)
	}); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-40 * 24 * time.Hour)
	for path, size := range map[string]int{
		"downloads/" + f.SHA256:                  2000,
		"downloads/" + strings.Repeat("a", 64):   3000,
		"partial/" + strings.Repeat("b", 64):     4000,
		"outputs/init-x86_64-0123/manifest.json": 0,
		"logs/kernel-x86_64-0123.log":            500,
	} {
		path = filepath.Join(dir, path)
		if size > 0 {
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp", "kernel-x86_64-0123.made-1", "ready", "tree", "linux"),
		0o755); err != nil {
		t.Fatal(err)
	}
	return dir, f
}

func TestCacheLs(t *testing.T) {
	dir, f := cached(t)
	var out, errs bytes.Buffer
	if code := Main([]string{"cache", "ls", "--json"}, &out, &errs); code != 0 {
		t.Fatalf("exit status %d: %s", code, &errs)
	}
	var got struct {
		Store string
		Size  int64
		Items []struct{ Kind, Name, File string }
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Store != dir || got.Size < 10_000 || len(got.Items) != 6 {
		t.Errorf("expected six items of 10,000 bytes in %s, found %+v", dir, got)
	}
	named := false
	for _, i := range got.Items {
		named = named || i.Kind == "download" && i.Name == f.SHA256 &&
			i.File == f.Name+" "+f.Version+" "+f.Arch
	}
	if !named {
		t.Errorf("expected the locked download by its name, found %+v", got.Items)
	}
	out.Reset()
	if code := Main([]string{"cache", "ls"}, &out, &errs); code != 0 ||
		!strings.Contains(out.String(), f.Name+" "+f.Version) ||
		!strings.Contains(out.String(), "6 in "+dir) {
		t.Errorf("exit status %d: %s", code, &out)
	}
}

func TestCachePrune(t *testing.T) {
	for _, tt := range []struct {
		args string
		gone string // kinds
		left int
	}{
		{"", "download log output partial making", 1},
		{"--older-than 50d", "partial making", 4},
		{"--older-than 1h", "download log output partial making", 1},
		{"--all", "download download log output partial making", 0},
		{"--all --dry-run", "download download log output partial making", 6},
	} {
		t.Run(tt.args, func(t *testing.T) {
			dir, _ := cached(t)
			var out, errs bytes.Buffer
			if code := Main(append([]string{"cache", "prune", "--json"}, strings.Fields(tt.args)...), &out,
				&errs); code != 0 {
				t.Fatalf("exit status %d: %s", code, &errs)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 && tt.left < 6 {
				t.Errorf("what a kill left is still there: %v", left)
			}
			var got struct{ Items []struct{ Kind string } }
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, i := range got.Items {
				kinds = append(kinds, i.Kind)
			}
			if s := strings.Join(kinds, " "); s != tt.gone {
				t.Errorf("expected %q to go, found %q", tt.gone, s)
			}
			out.Reset()
			if code := Main([]string{"cache", "ls", "--json"}, &out, &errs); code != 0 {
				t.Fatalf("exit status %d: %s", code, &errs)
			}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Items) != tt.left {
				t.Errorf("expected %d items to be left, found %d (%v)", tt.left, len(got.Items), err)
			}
		})
	}
}

func TestCacheMisused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args  string
		cache string
		code  int
		words string
	}{
		{"cache prune --older-than yesterday", "", 2, `"yesterday"`},
		{"cache prune --older-than -1h", "", 2, `"-1h"`},
		{"cache ls extra", "", 2, "extra"},
		{"cache ls", dir, 1, "other users can write to it"},
	} {
		t.Setenv("NEB_CACHE", tt.cache)
		if tt.cache == "" {
			t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "store"))
		}
		var out, errs bytes.Buffer
		if code := Main(strings.Fields(tt.args), &out, &errs); code != tt.code ||
			!strings.Contains(errs.String(), tt.words) {
			t.Errorf("%s: expected status %d and %q, found %d: %s", tt.args, tt.code, tt.words, code, &errs)
		}
	}
}

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{"0d": 0, "30d": 720 * time.Hour, "12h": 12 * time.Hour,
		"1h30m": 90 * time.Minute} {
		if got, err := parseAge(s); err != nil || got != want {
			t.Errorf("%s: expected %v, found %v (%v)", s, want, got, err)
		}
	}
	for _, s := range []string{"", "d", "-1d", "1.5d", "99999999d", "x"} {
		if got, err := parseAge(s); err == nil {
			t.Errorf("%q: expected an error, found %v", s, got)
		}
	}
}
