package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

const (
	treeName = "tree"
	manifest = "manifest.json"
	tmpMark  = ".made-" // between key and random part in the name of a working directory
	usedMark = "+used"  // suffix of the lock that users share; the maker locks the key alone
)

// Has reports whether the store holds an output with this key. It does not verify the output.
func (s *Store) Has(key string) bool {
	_, err := os.Stat(s.in(outputs, key))
	return err == nil
}

// Lookup returns the directory of the output with a key, like [Store.Output], or "" if the store does not
// have it undamaged.
func (s *Store) Lookup(ctx context.Context, key string) (dir string, err error) {
	ok, err := s.use(ctx, key)
	if !ok || err != nil {
		return "", err
	}
	return filepath.Join(s.in(outputs, key), treeName), nil
}

// Output returns the directory of the output with a key; hit reports whether it was in the store. If not,
// it calls make with an empty directory to fill. A key stands for all inputs of the output; it consists of
// letters, digits and "._-".
//
// One process makes an output, others wait for it. All files are hashed when the output is made and
// whenever it is used; a damaged output is made again. It cannot be pruned before [Store.Close]. Callers
// must not write to it.
func (s *Store) Output(ctx context.Context, key string, make func(dir string) error) (dir string, hit bool,
	err error) {
	if !validKey(key) {
		return "", false, fmt.Errorf("store: invalid key %q: expected letters, digits and ._-", key)
	}
	s.sweep(ctx)
	dir, err = s.Lookup(ctx, key)
	if dir != "" || err != nil {
		return dir, true, err
	}
	if s.readOnly {
		return "", false, fmt.Errorf("store %s: output %s is missing and the store is read-only: "+
			"set NEB_CACHE to a directory that you can write to", s.dir, key)
	}
	for try := 1; ; try++ {
		made, err := s.make(ctx, key, make)
		if err != nil {
			return "", false, err
		}
		// Another process may prune the output between making and using it.
		if dir, err := s.Lookup(ctx, key); dir != "" || err != nil {
			return dir, !made, err
		}
		if try == tries {
			return "", false, fmt.Errorf("store %s: output %s was changed or removed right after it was "+
				"made, %d times", s.dir, key, tries)
		}
	}
}

// tries is how often Output makes an output that disappears before it can be used.
const tries = 3

func validKey(key string) bool {
	if key == "" || key[0] == '.' || len(key) > 200 {
		return false
	}
	for _, r := range key {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' ||
			r == '-') {
			return false
		}
	}
	return true
}

// use marks an output as used by this process, if it is in the store and undamaged.
func (s *Store) use(ctx context.Context, key string) (bool, error) {
	if _, err := os.Stat(s.in(outputs, key)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	h, err := s.lock(ctx, key+usedMark, unix.LOCK_SH)
	if err != nil && !(s.readOnly && (readOnly(err) || errors.Is(err, fs.ErrNotExist))) {
		return false, err
	}
	ok, err := s.intact(ctx, key)
	switch {
	case ok && h != nil:
		now := time.Now()
		// when it was last used, for prune
		_ = os.Chtimes(filepath.Join(s.in(outputs, key), manifest), now, now)
		s.hold(key, h)
	case h != nil:
		h.release()
	}
	return ok, err
}

// hold keeps a lock until [Store.Close].
func (s *Store) hold(name string, h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.used[name]; before != nil {
		before.release()
	}
	s.used[name] = h
}

// make makes an output, unless another process made it in the meantime.
func (s *Store) make(ctx context.Context, key string, make func(dir string) error) (made bool, err error) {
	h, err := s.lock(ctx, key, unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer h.release()
	if ok, err := s.intact(ctx, key); ok || err != nil {
		return false, err
	}
	work, err := os.MkdirTemp(filepath.Join(s.dir, tmp), key+tmpMark)
	if err != nil {
		return false, fmt.Errorf("store: %w", &localError{err})
	}
	// After an interrupt the next process does it: a kernel has 90,000 files, and the user waits for this
	// one.
	defer func() { _ = tree.Remove(ctx, work) }()
	ready := filepath.Join(work, "ready")
	dir := filepath.Join(ready, treeName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("store: %w", &localError{err})
	}
	if err := make(dir); err != nil {
		_ = os.Remove(h.f.Name()) // this key may never be used again
		return false, err
	}
	if err := s.finish(ctx, ready); err != nil {
		return false, fmt.Errorf("store: output %s: %w", key, &localError{err})
	}
	// An existing output is damaged: it is removed together with the working directory.
	final := s.in(outputs, key)
	if err := os.Rename(final, filepath.Join(work, "damaged")); err != nil &&
		!errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("store: output %s: %w", key, err)
	}
	err = os.Rename(ready, final)
	if err == nil {
		err = syncDir(filepath.Join(s.dir, outputs))
	}
	if err != nil {
		return false, fmt.Errorf("store: output %s: %w", key, &localError{err})
	}
	return true, nil
}

// finish writes the manifest of an output. Only the manifest is synced: files that a power failure damages
// are found by their hashes at the next use, and syncing the 20,000 files of a toolchain would delay every
// first build.
func (s *Store) finish(ctx context.Context, dir string) error {
	entries, err := tree.List(ctx, filepath.Join(dir, treeName))
	if err != nil {
		return err
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, manifest), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// intact reports whether an output is in the store and undamaged.
func (s *Store) intact(ctx context.Context, key string) (bool, error) {
	dir := s.in(outputs, key)
	data, err := os.ReadFile(filepath.Join(dir, manifest))
	if err != nil {
		return false, ignore(err, fs.ErrNotExist)
	}
	var want []tree.Entry
	if json.Unmarshal(data, &want) != nil {
		return false, nil
	}
	found, err := tree.List(ctx, filepath.Join(dir, treeName))
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, nil // an unreadable output is damaged
	}
	return slices.Equal(found, want), nil
}

func ignore(err, which error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}
