// Package store keeps downloads by their content and finished outputs by the key of what went into them.
//
// Everything in a store was verified before it got its name there, and gets its name by a rename: a process
// killed at any moment leaves nothing half-written behind that could be used. Both are hashed again when used.
// Processes share a store: who makes a thing holds its lock, the others wait and find it made.
//
//	downloads/SHA256    verified files
//	partial/SHA256      what has come of a download so far
//	outputs/KEY/        a finished output: tree/ and manifest.json, the hashes of all in it
//	tmp/KEY.*           an output being made
//	logs/NAME           what was said while an output was made
//	locks/NAME          empty files for flock(2)
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// Store is a directory of downloads and outputs. Its methods may be used from several goroutines at once.
type Store struct {
	dir      string
	readOnly bool

	mu    sync.Mutex
	used  map[string]*held // by key, the outputs that this process uses, kept from being pruned
	works map[string]*held // by path, the directories that [Store.Work] made
}

// The rooms of a store.
const (
	downloads = "downloads"
	partial   = "partial"
	outputs   = "outputs"
	tmp       = "tmp"
	logs      = "logs"
	locks     = "locks"
)

// DefaultDir is where the store is when nobody says otherwise: NEB_CACHE, else $XDG_CACHE_HOME/neb, else
// ~/.cache/neb.
func DefaultDir() (string, error) {
	if dir := os.Getenv("NEB_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the store: set NEB_CACHE to a directory of your own (%w)", err)
	}
	return filepath.Join(dir, "neb"), nil
}

// Open opens the store in dir, making it where there is none; "" means [DefaultDir].
//
// It refuses a directory that belongs to another user than this one or root, and one that others can write
// to: what they put there would end up in enclaves. A store that this user cannot write to is good for what is
// in it.
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
	s := &Store{dir: dir, used: map[string]*held{}, works: map[string]*held{}}
	for _, room := range []string{"", downloads, partial, outputs, tmp, logs, locks} {
		room = filepath.Join(dir, room)
		err := os.MkdirAll(room, 0o755)
		if err == nil {
			err = unix.Access(room, unix.W_OK)
		}
		if _, there := os.Stat(dir); readOnly(err) && there == nil {
			s.readOnly = true
		} else if err != nil {
			return nil, fmt.Errorf("store %s: %w", dir, err)
		}
		if err := trusted(room); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if !s.readOnly {
		s.sweep()
	}
	return s, nil
}

// readOnly reports whether err says that nothing can be written where it happened.
func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// trusted says why a directory cannot be trusted, if so.
func trusted(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("store %s: expected a directory, found %v", dir, info.Mode())
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() && owner != 0 {
		return fmt.Errorf("store %s: belongs to user %d, expected user %d or root: set NEB_CACHE to a directory of your own", dir, owner, os.Geteuid())
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("store %s: others can write to it (mode %#o): what they put there would be built into enclaves; run 'chmod go-w %s' if you know what is in it, or remove it", dir, perm, dir)
	}
	return nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// ReadOnly reports whether nothing can be added to the store.
func (s *Store) ReadOnly() bool { return s.readOnly }

// Path is where a download is, once [Store.Fetch] has returned without an error.
func (s *Store) Path(f lock.File) string { return s.in(downloads, f.SHA256) }

func (s *Store) in(room, name string) string { return filepath.Join(s.dir, room, name) }

// Close lets go of the outputs that were used, so that they can be pruned, and removes what [Store.Work] made.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for dir, h := range s.works {
		errs = append(errs, remove(dir))
		errs = append(errs, os.Remove(h.f.Name()))
		h.release()
		delete(s.works, dir)
	}
	for key, h := range s.used {
		h.release()
		delete(s.used, key)
	}
	return errors.Join(errs...)
}

// Work makes an empty directory for work beside the store's files, on the same file system. It goes with
// [Store.Close], or at the next [Open] by any process after a kill.
func (s *Store) Work(ctx context.Context) (string, error) {
	if s.readOnly {
		return "", fmt.Errorf("store %s cannot be written to: set NEB_CACHE to one that can", s.dir)
	}
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
	s.works[dir] = h
	return dir, nil
}

// discard removes what is left of making an output. Whoever interrupts that does not want to wait until the 90,000
// files of a kernel are gone: then another process removes them, and this one may end.
func (s *Store) discard(ctx context.Context, work string) {
	if ctx.Err() == nil || s.removeLater(work) != nil {
		_ = remove(work)
	}
}

// removeLater starts a process that removes a directory of tmp. It inherits the lock that says that somebody is at
// it: should it be killed, the next [Open] sweeps.
func (s *Store) removeLater(work string) error {
	rm, err := exec.LookPath("rm")
	if err != nil {
		return err
	}
	name := "gone-" + rand.Text() // the output's own name is free for who makes it next
	h, err := s.tryLock(name, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer h.release()
	gone := s.in(tmp, name)
	if err := os.Rename(work, gone); err != nil {
		return err
	}
	cmd := exec.Command(rm, "-rf", "--", gone, h.f.Name())
	cmd.ExtraFiles = []*os.File{h.f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return errors.Join(err, os.Rename(gone, work), os.Remove(h.f.Name()))
	}
	return cmd.Process.Release()
}

// Log makes an empty file for what is said while an output is made. It is not pruned before it is closed.
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

// sweep removes what processes left that were killed while they made an output: what nobody holds the lock of.
func (s *Store) sweep() {
	entries, _ := os.ReadDir(filepath.Join(s.dir, tmp))
	for _, e := range entries {
		key, _, _ := strings.Cut(e.Name(), tmpMark)
		h, err := s.tryLock(key, unix.LOCK_EX)
		if err != nil {
			continue
		}
		_ = remove(s.in(tmp, e.Name()))
		_ = os.Remove(h.f.Name())
		h.release()
	}
}

// held is a lock on a name of the store, held until released or until the process ends.
type held struct{ f *os.File }

func (h *held) release() { _ = h.f.Close() }

// tryLock takes a lock without waiting; the error is [unix.EWOULDBLOCK] where somebody has it.
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
		// A lock file may have been removed between opening and locking: then the lock guards nothing.
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

// lock takes a lock, waiting for whoever has it.
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

// remove removes a tree, directories without write permission included.
func remove(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// syncDir makes the names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
