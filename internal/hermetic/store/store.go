// Package store keeps downloads by the hash of their content, and outputs by the key of their inputs. It
// does not know what an output is made of (see component) or where downloads come from (see fetch).
//
// A file is verified before it gets its name in the store, and gets the name by a rename. So a process that
// is killed leaves nothing incomplete under a name that others use. Downloads and outputs are hashed again
// when they are used. Processes share a store: one makes a thing and holds its lock, the others wait and
// then use it.
//
//	downloads/SHA256    verified files
//	partial/SHA256      incomplete downloads
//	outputs/KEY/        a finished output: tree/ and manifest.json, the hashes of all files in it
//	tmp/KEY.*           an output being made
//	logs/NAME           log of making an output
//	locks/NAME          empty files for flock(2)
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// Store is a directory of downloads and outputs. Its methods may be used from several goroutines at once.
type Store struct {
	dir      string
	readOnly bool

	mu    sync.Mutex
	used  map[string]*held // by key, what this process uses and others must not prune
	works map[string]work  // by path, the directories that [Store.Work] made
	swept sync.Once
}

// work is a working directory. Close leaves it to the next process if ctx is done.
type work struct {
	*held
	ctx context.Context
}

// Subdirectories of a store.
const (
	downloads = "downloads"
	partial   = "partial"
	outputs   = "outputs"
	tmp       = "tmp"
	logs      = "logs"
	locks     = "locks"
)

// DefaultDir returns the directory of the store: NEB_CACHE, else $XDG_CACHE_HOME/neb, else ~/.cache/neb.
func DefaultDir() (string, error) {
	if dir := os.Getenv("NEB_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("store: no cache directory: set NEB_CACHE to a directory of your own: %w", err)
	}
	return filepath.Join(dir, "neb"), nil
}

// Open opens the store in dir, and creates it if it does not exist; "" means [DefaultDir].
//
// It rejects a directory that belongs to a user other than this one and root, and one that others can write
// to: what they put there would end up in enclaves. A store that this user cannot write to is opened
// read-only.
func Open(dir string) (*Store, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dir); err == nil {
		// Without links, which whoever made them could lead elsewhere after the checks below.
		if dir, err = atomicfile.Target(dir); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	s := &Store{dir: dir, used: map[string]*held{}, works: map[string]work{}}
	for _, sub := range []string{"", downloads, partial, outputs, tmp, logs, locks} {
		sub = filepath.Join(dir, sub)
		err := os.MkdirAll(sub, 0o755)
		if err == nil {
			err = unix.Access(sub, unix.W_OK)
		}
		if _, there := os.Stat(dir); readOnly(err) && there == nil {
			s.readOnly = true
		} else if err != nil {
			return nil, fmt.Errorf("store %s: %w", dir, err)
		}
		if err := trusted(sub); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return s, nil
}

// readOnly reports whether err is that of writing to a read-only place.
func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// trusted returns an error if others can change what is in a directory.
func trusted(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("store %s: expected a directory, found %v", dir, info.Mode())
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() && owner != 0 {
		return fmt.Errorf("store %s: directory belongs to user %d, expected user %d or root; "+
			"set NEB_CACHE to a directory of your own", dir, owner, os.Geteuid())
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("store %s: other users can write to it (mode %#o), and what they write "+
			"would get into enclaves; run 'chmod go-w %s' if you trust its content, or remove it", dir, perm,
			dir)
	}
	return nil
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// ReadOnly reports whether this user cannot write to the store.
func (s *Store) ReadOnly() bool { return s.readOnly }

// Path returns where a download is after [Store.Fetch] has returned nil.
func (s *Store) Path(f lock.File) string { return s.in(downloads, f.SHA256) }

func (s *Store) in(sub, name string) string { return filepath.Join(s.dir, sub, name) }

// Close allows what was used to be pruned, and removes what [Store.Work] made.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for dir, h := range s.works {
		if h.ctx.Err() == nil {
			errs = append(errs, tree.Remove(h.ctx, dir), os.Remove(h.f.Name()))
		}
		h.release()
		delete(s.works, dir)
	}
	for key, h := range s.used {
		h.release()
		delete(s.used, key)
	}
	return errors.Join(errs...)
}

// Work makes an empty working directory on the store's file system. [Store.Close] removes it; if this
// process is interrupted or killed, the next one that makes something does.
func (s *Store) Work(ctx context.Context) (string, error) {
	if s.readOnly {
		return "", fmt.Errorf("store %s is read-only: set NEB_CACHE to a directory that you can write to",
			s.dir)
	}
	s.sweep(ctx)
	name := "work-" + rand.Text()
	h, err := s.lock(ctx, name, unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	dir := s.in(tmp, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.release()
		return "", fmt.Errorf("store: %w", &localError{err})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.works[dir] = work{h, ctx}
	return dir, nil
}

// Log creates or truncates a log file. It is not pruned before it is closed.
func (s *Store) Log(name string) (*os.File, error) {
	f, err := os.Create(s.in(logs, name))
	if err != nil {
		return nil, &localError{err}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, fmt.Errorf("store %s: lock log %s: %w", s.dir, name, err)
	}
	return f, nil
}

// sweep removes, once, the working directories of processes that were killed: those whose lock is free.
func (s *Store) sweep(ctx context.Context) {
	s.swept.Do(func() {
		entries, _ := os.ReadDir(filepath.Join(s.dir, tmp))
		for _, e := range entries {
			key, _, _ := strings.Cut(e.Name(), tmpMark)
			_, _ = s.remove(ctx, Item{Kind: Making, path: s.in(tmp, e.Name()), lock: key})
		}
	})
}

// held is a lock on a name of the store, until it is released or the process ends.
type held struct{ f *os.File }

func (h *held) release() { _ = h.f.Close() }

// tryLock takes a lock without waiting. The error is [unix.EWOULDBLOCK] if another process holds it.
func (s *Store) tryLock(name string, how int) (*held, error) {
	path := s.in(locks, name)
	for {
		flags := os.O_RDWR | os.O_CREATE
		if s.readOnly {
			flags = os.O_RDONLY
		}
		f, err := os.OpenFile(path, flags, 0o644)
		if err != nil {
			return nil, err
		}
		for {
			err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		// If the lock file was removed after it was opened, others lock a new one: try again.
		opened, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(opened, named) {
			return &held{f}, nil
		}
		f.Close()
	}
}

// lock takes a lock, and waits until it is free.
func (s *Store) lock(ctx context.Context, name string, how int) (*held, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		h, err := s.tryLock(name, how)
		if err == nil {
			return h, nil
		}
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("store %s: lock %s: %w", s.dir, name, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// syncDir writes the names in a directory to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
