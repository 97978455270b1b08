package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// make50 makes a tree of 50 files in 5 directories, one of them without write permission, and a link.
func make50(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 50 {
		path := filepath.Join(dir, fmt.Sprint("d", i%5), fmt.Sprint("f", i))
		if err := WriteFile(path, 0o644, strings.NewReader(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("f0", filepath.Join(dir, "d0", "link")),
		os.Chmod(filepath.Join(dir, "d1"), 0o555),
		os.Chmod(filepath.Join(dir, "d0", "f0"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "d1"), 0o755) })
	return dir
}

// countdown is a context that ends after it was asked a number of times.
type countdown struct {
	context.Context
	left *atomic.Int64
}

func (c countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestContext ends the context in the middle of each operation: no more files are touched than it was asked
// for.
func TestContext(t *testing.T) {
	const asked = 20
	for name, f := range map[string]func(ctx context.Context, dir, to string) error{
		"walk": func(ctx context.Context, dir, _ string) error {
			return Walk(ctx, dir, nil, func(string, Entry) error { return nil })
		},
		"list":   func(ctx context.Context, dir, _ string) error { _, err := List(ctx, dir); return err },
		"copy":   func(ctx context.Context, dir, to string) error { return Copy(ctx, dir, to, false) },
		"link":   func(ctx context.Context, dir, to string) error { return Copy(ctx, dir, to, true) },
		"remove": func(ctx context.Context, dir, _ string) error { return Remove(ctx, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, to := make50(t), filepath.Join(t.TempDir(), "to")
			ctx := countdown{t.Context(), new(atomic.Int64)}
			ctx.left.Store(asked)
			if err := f(ctx, dir, to); !errors.Is(err, context.Canceled) {
				t.Fatalf("expected %v, found %v", context.Canceled, err)
			}
			touched := 57 - count(t, dir) + count(t, to)
			if touched > asked {
				t.Errorf("%d files were touched, and the context was asked %d times", touched, asked)
			}
			if extra := -ctx.left.Load() - 1; extra > 20 { // the hashes that run at the same time
				t.Errorf("the context was asked %d times after its end", extra)
			}
		})
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	_ = filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { n++; return nil })
	if _, err := os.Lstat(dir); err != nil {
		return 0
	}
	return n
}

func TestCopyAndRemove(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	from := make50(t)
	for _, link := range []bool{false, true} {
		to := filepath.Join(t.TempDir(), "to")
		if err := Copy(t.Context(), from, to, link, "d4"); err != nil {
			t.Fatal(err)
		}
		entries, err := List(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		want, err := List(t.Context(), from, "d4")
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if m := &want[i].Mode; m.IsDir() {
				*m = fs.ModeDir | 0o755
			} else if m.IsRegular() && !link && *m&0o100 != 0 {
				*m = 0o755
			}
		}
		if !slices.Equal(entries, want) {
			t.Errorf("link %v: expected %v, found %v", link, want, entries)
		}
	}
	if err := Remove(t.Context(), from); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(from); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if err := Remove(t.Context(), from); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

func TestListRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := List(t.Context(), dir); err == nil ||
		!strings.Contains(err.Error(), "pipe: expected a file") {
		t.Errorf("found %v", err)
	}
}
