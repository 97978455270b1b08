package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
)

// maker makes an output with all that one may hold, and counts how often.
func maker(made *atomic.Int32) func(string) error {
	return func(dir string) error {
		made.Add(1)
		if err := os.MkdirAll(filepath.Join(dir, "a", "empty"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "a", "file"), []byte("content"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			return err
		}
		return os.Symlink("a/file", filepath.Join(dir, "link"))
	}
}

func TestOutput(t *testing.T) {
	s := open(t)
	var made atomic.Int32
	first, hit, err := s.Output(t.Context(), "kernel-x86_64-0123", maker(&made))
	if err != nil || hit {
		t.Fatalf("expected the output to be made, found hit %v, %v", hit, err)
	}
	if data, err := os.ReadFile(filepath.Join(first, "link")); err != nil || string(data) != "content" {
		t.Errorf("expected the content through the link, found %q (%v)", data, err)
	}
	second, hit, err := s.Output(t.Context(), "kernel-x86_64-0123", maker(&made))
	if err != nil || !hit || second != first || made.Load() != 1 {
		t.Errorf("expected a hit in %s, found hit %v in %s, made %d times (%v)", first, hit, second,
			made.Load(), err)
	}
}

// TestDamagedOutput changes a finished output: it is made anew, and is right again.
func TestDamagedOutput(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"content, same size": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a/file"),
				[]byte("CONTENT"), 0o644)
		},
		"truncated": func(dir string) error { return os.Truncate(filepath.Join(dir, "a/file"), 0) },
		"file gone": func(dir string) error { return os.Remove(filepath.Join(dir, "a/file")) },
		"file more": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "more"), nil,
				0o644)
		},
		"directory gone": func(dir string) error { return os.Remove(filepath.Join(dir, "a/empty")) },
		"mode":           func(dir string) error { return os.Chmod(filepath.Join(dir, "tool"), 0o644) },
		"link elsewhere": func(dir string) error {
			os.Remove(filepath.Join(dir, "link"))
			return os.Symlink("tool", filepath.Join(dir, "link"))
		},
		"file became a socket": func(dir string) error {
			os.Remove(filepath.Join(dir, "tool"))
			return syscall.Mkfifo(filepath.Join(dir, "tool"), 0o755)
		},
		"manifest truncated": func(dir string) error {
			return os.Truncate(filepath.Join(dir,
				"../manifest.json"), 10)
		},
		"manifest gone": func(dir string) error {
			return os.Remove(filepath.Join(dir,
				"../manifest.json"))
		},
		"all gone": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			var made atomic.Int32
			dir, _, err := s.Output(t.Context(), "k", maker(&made))
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if dir, _, err = s.Output(t.Context(), "k", maker(&made)); err != nil {
					t.Fatal(err)
				}
			}
			if data, err := os.ReadFile(filepath.Join(dir, "link")); err != nil ||
				string(data) != "content" || made.Load() != 2 {
				t.Errorf("expected the output to be right after being made twice, found %q, "+
					"made %d times (%v)", data, made.Load(), err)
			}
			if left, _ := os.ReadDir(filepath.Join(s.Dir(), tmp)); len(left) != 0 {
				t.Errorf("%d directories are left behind", len(left))
			}
		})
	}
}

func TestFailedOutput(t *testing.T) {
	s := open(t)
	no := errors.New("does not compile")
	if _, _, err := s.Output(t.Context(), "k", func(dir string) error {
		// A tree without write permission is removed all the same.
		_ = os.Mkdir(filepath.Join(dir, "locked"), 0o755)
		_ = os.WriteFile(filepath.Join(dir, "locked", "f"), nil, 0o444)
		_ = os.Chmod(filepath.Join(dir, "locked"), 0o555)
		return no
	}); !errors.Is(err, no) {
		t.Errorf("expected %v, found %v", no, err)
	}
	if _, _, err := s.Output(t.Context(), "k",
		func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644) }); err == nil ||
		!strings.Contains(err.Error(), "pipe") {
		t.Errorf("expected an error about the pipe, found %v", err)
	}
	for _, room := range []string{outputs, tmp} {
		if left, _ := os.ReadDir(filepath.Join(s.Dir(), room)); len(left) != 0 {
			t.Errorf("%s: %d entries are left behind", room, len(left))
		}
	}
	for _, key := range []string{"", ".", "..", "a/b", "../a", "a b", strings.Repeat("x", 201)} {
		if _, _, err := s.Output(t.Context(), key, func(string) error { return nil }); err == nil {
			t.Errorf("key %q was taken", key)
		}
	}
}

// TestOutputWaits: of many goroutines one makes, the others wait, and one that is told to stop stops waiting.
func TestOutputWaits(t *testing.T) {
	s := open(t)
	var made atomic.Int32
	begun, end := make(chan struct{}), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, _, err := s.Output(context.Background(), "k", func(dir string) error {
			close(begun)
			<-end
			return maker(&made)(dir)
		}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, _, err := s.Output(ctx, "k", maker(&made)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected to stop waiting, found %v", err)
	}
	for range 4 {
		wait.Go(func() {
			if _, hit, err := s.Output(context.Background(), "k", maker(&made)); err != nil || !hit {
				t.Errorf("expected a hit, found %v, %v", hit, err)
			}
		})
	}
	close(end)
	wait.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "file")); err == nil {
		t.Error("a file was taken for a store")
	}
	for _, tt := range []struct {
		room string
		mode os.FileMode
		ok   bool
	}{
		{"", 0o777, false}, {"", 0o770, false}, {"", 0o702, false}, {"", os.ModeSticky | 0o777, false},
		{downloads, 0o777, false}, {outputs, 0o720, false},
		{"", 0o755, true}, {"", 0o700, true},
	} {
		name := fmt.Sprintf("%s %v", tt.room, tt.mode)
		store := filepath.Join(t.TempDir(), "store")
		if _, err := Open(store); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(store, tt.room), tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(store)
		if tt.ok && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !tt.ok && (err == nil || !strings.Contains(err.Error(), "other users can write to it") ||
			!strings.Contains(err.Error(), store)) {
			t.Errorf("%s: expected a refusal, found %v", name, err)
		}
	}
	real := filepath.Join(dir, "real")
	if err := os.Symlink(real, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(filepath.Join(dir, "link")); err != nil || s.Dir() != real {
		t.Errorf("a link: the store is in %v, error %v, expected %s", s, err, real)
	}
	if os.Geteuid() == 0 {
		store := filepath.Join(t.TempDir(), "store")
		if _, err := Open(store); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(store, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(store); err == nil ||
			!strings.Contains(err.Error(), "directory belongs to user 12345") {
			t.Errorf("a store of another user: expected a refusal, found %v", err)
		}
		// Its owner can lead the link to another store at any time after Open.
		tmp, own := t.TempDir(), t.TempDir()
		link := filepath.Join(tmp, "neb")
		if err := errors.Join(os.Chmod(tmp, os.ModeSticky|0o777), os.Symlink(own, link),
			os.Lchown(link, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(link); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("a link of another user in /tmp: expected a refusal, found %v", err)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	for _, tt := range []struct{ cache, xdg, home, want string }{
		{"/c", "/x", "/h", "/c"},
		{"", "/x", "/h", "/x/neb"},
		{"", "", "/h", "/h/.cache/neb"},
	} {
		t.Setenv("NEB_CACHE", tt.cache)
		t.Setenv("XDG_CACHE_HOME", tt.xdg)
		t.Setenv("HOME", tt.home)
		if got, err := DefaultDir(); err != nil || got != tt.want {
			t.Errorf("%+v: found %q (%v)", tt, got, err)
		}
	}
	t.Setenv("HOME", "")
	if _, err := DefaultDir(); err == nil || !strings.Contains(err.Error(), "NEB_CACHE") {
		t.Errorf("without a home: expected to be told of NEB_CACHE, found %v", err)
	}
}

func TestListAndPrune(t *testing.T) {
	s := open(t)
	var made atomic.Int32
	if _, _, err := s.Output(t.Context(), "old", maker(&made)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Output(t.Context(), "new", maker(&made)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	past := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(filepath.Join(s.in(outputs, "old"), manifest), past, past); err != nil {
		t.Fatal(err)
	}
	data := mirror.Content(5000)
	f := mirror.Locked("bash", data)
	if err := os.WriteFile(s.Path(f), data, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.in(partial, strings.Repeat("0", 64)), data[:10], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.Dir(), "strange"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"failed", "working"} {
		log, err := s.Log(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(log, "hello")
		if err := os.Chtimes(log.Name(), past, past); err != nil {
			t.Fatal(err)
		}
		if name == "failed" {
			log.Close()
		} else {
			defer log.Close()
		}
	}
	names := func(items []Item) string {
		var all []string
		for _, i := range items {
			all = append(all, string(i.Kind)+" "+i.Name)
		}
		return strings.Join(all, ", ")
	}
	items, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "download " + f.SHA256 + ", log failed, log working, output new, output old, partial " +
		strings.Repeat("0", 64) + ", other strange"
	if got := names(items); got != want {
		t.Errorf("expected %s, found %s", want, got)
	}
	for _, i := range items {
		if i.Kind == Download && i.Size != 5000 || i.Kind == Output && i.Size < 17 || i.Kind == Log &&
			i.Size != 6 {
			t.Errorf("%s %s: size %d", i.Kind, i.Name, i.Size)
		}
	}
	gone, err := s.Prune(t.Context(), func(i Item) bool { return i.Used.Before(time.Now().Add(-time.Hour)) })
	if got := names(gone); err != nil || got != "log failed, output old" {
		t.Errorf("expected the old output and the old log to be pruned, found %s (%v)", got, err)
	}
	if _, err := s.Prune(t.Context(), func(i Item) bool { return i.Kind == Other }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "strange")); err != nil {
		t.Errorf("what is not the store's was pruned: %v", err)
	}
	if _, hit, err := s.Output(t.Context(), "new", maker(&made)); err != nil || !hit {
		t.Errorf("the new output: hit %v, %v", hit, err)
	}
	if _, hit, err := s.Output(t.Context(), "old", maker(&made)); err != nil || hit {
		t.Errorf("the pruned output: hit %v, %v", hit, err)
	}
}

// TestPruneBesideBuild prunes everything while an output is made, a working directory and a log are in use.
func TestPruneBesideBuild(t *testing.T) {
	s := open(t)
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	work, err := s.Work(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	log, err := s.Log("making")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var made atomic.Int32
	if _, _, err := s.Output(t.Context(), "k", func(dir string) error {
		if err := maker(&made)(dir); err != nil {
			return err
		}
		gone, err := other.Prune(t.Context(), func(Item) bool { return true })
		if len(gone) > 0 {
			t.Errorf("pruned beside the build: %v", gone)
		}
		other.sweep(t.Context())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(work); err != nil {
		t.Error(err)
	}
	if gone, err := other.Prune(t.Context(), func(Item) bool { return true }); err != nil || len(gone) > 0 {
		t.Errorf("pruned what the build uses: %v, %v", gone, err)
	}
}

// TestPruneHears ends the context while a third item is looked at: the first two are pruned, no other.
func TestPruneHears(t *testing.T) {
	s := open(t)
	for i := range 10 {
		if err := os.WriteFile(s.in(partial, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	gone, err := s.Prune(ctx, func(Item) bool {
		if asked++; asked == 3 {
			cancel()
		}
		return true
	})
	if len(gone) != 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("pruned %d items, %v", len(gone), err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), partial)); len(left) != 8 {
		t.Errorf("expected 8 items to be left, found %d", len(left))
	}
}

// An interrupted build does not delay its process: the next one removes its directory, and the key is free
// at once.
func TestInterruptedOutput(t *testing.T) {
	s := open(t)
	ctx, interrupt := context.WithCancel(t.Context())
	_, _, err := s.Output(ctx, "k", func(string) error {
		interrupt()
		return context.Cause(ctx)
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("found %v", err)
	}
	var made atomic.Int32
	if _, hit, err := s.Output(t.Context(), "k", maker(&made)); err != nil || hit {
		t.Errorf("after the interrupt: hit %v, %v", hit, err)
	}
	again, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.sweep(t.Context())
	if left, err := os.ReadDir(filepath.Join(s.Dir(), tmp)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestWork makes a working directory, which another process leaves alone, and which Close removes.
func TestWork(t *testing.T) {
	at := filepath.Join(t.TempDir(), "store")
	s, err := Open(at)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Work(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.sweep(t.Context())
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the store swept a directory that is in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after Close: %v, want it gone", err)
	}

	// What a killed process left has no lock, and goes when the next one makes something.
	left := filepath.Join(at, tmp, "work-left")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	third, err := Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.sweep(t.Context())
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after a sweep: %v, want it gone", err)
	}
	if left, _ := os.ReadDir(filepath.Join(at, locks)); len(left) > 0 {
		t.Errorf("locks of nothing: %v", left)
	}
}
