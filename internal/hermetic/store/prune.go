package store

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what an [Item] of a store is.
type Kind string

// The kinds of items.
const (
	Download Kind = "download" // a verified download
	Partial  Kind = "partial"  // an incomplete download
	Output   Kind = "output"   // a finished output
	Making   Kind = "making"   // the working directory of an output
	Log      Kind = "log"      // the log of an output that failed or is being made
	Other    Kind = "other"    // not the store's
)

// Item is one thing in a store.
type Item struct {
	Kind Kind      `json:"kind"`
	Name string    `json:"name"` // SHA-256 of a download, key of an output, else the name below the store
	Size int64     `json:"size"` // bytes
	Used time.Time `json:"used"` // when it was last used
	path string
	lock string // name of its lock
}

// List returns what is in the store, sorted by kind and name.
func (s *Store) List() ([]Item, error) {
	var items []Item
	top, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range top {
		switch sub.Name() {
		case downloads:
			err = s.each(sub.Name(), func(i Item) {
				i.Kind, i.lock = Download,
					i.Name
				items = append(items, i)
			})
		case partial:
			err = s.each(sub.Name(), func(i Item) {
				i.Kind, i.lock = Partial,
					i.Name
				items = append(items, i)
			})
		case outputs:
			err = s.each(sub.Name(), func(i Item) {
				i.Kind, i.lock = Output, i.Name
				i.Size, i.Used = outputState(i.path, i)
				items = append(items, i)
			})
		case tmp:
			err = s.each(sub.Name(), func(i Item) {
				i.Kind = Making
				i.lock, _, _ = strings.Cut(i.Name, tmpMark)
				i.Size = treeSize(i.path)
				items = append(items, i)
			})
		case logs:
			err = s.each(sub.Name(), func(i Item) { i.Kind = Log; items = append(items, i) })
		case locks:
		default:
			info, err := sub.Info()
			if err != nil {
				continue
			}
			path := filepath.Join(s.dir, sub.Name())
			items = append(items, Item{Kind: Other, Name: sub.Name(), Size: treeSize(path),
				Used: info.ModTime(), path: path})
		}
		if err != nil {
			return nil, err
		}
	}
	return items, nil
}

// each calls f for everything in a subdirectory.
func (s *Store) each(sub string, f func(Item)) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, sub))
	for _, e := range entries {
		path := s.in(sub, e.Name())
		if info, err := os.Stat(path); err == nil { // a download may be a symbolic link
			f(Item{Name: e.Name(), Size: info.Size(), Used: info.ModTime(), path: path})
		}
	}
	return err
}

// outputState returns the size in bytes and the last use of an output, from its manifest.
func outputState(dir string, i Item) (int64, time.Time) {
	name := filepath.Join(dir, manifest)
	data, err := os.ReadFile(name)
	var entries []entry
	if err != nil || json.Unmarshal(data, &entries) != nil {
		return treeSize(dir), i.Used
	}
	size := int64(len(data))
	for _, e := range entries {
		size += e.Size
	}
	if info, err := os.Stat(name); err == nil {
		i.Used = info.ModTime()
	}
	return size, i.Used
}

// treeSize returns the size in bytes of all files below a path.
func treeSize(path string) int64 {
	var size int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	return size
}

// Prune removes the items for which choose returns true, and returns them. It keeps items that a process
// makes or uses, and those of kind [Other].
func (s *Store) Prune(choose func(Item) bool) ([]Item, error) {
	items, err := s.List()
	if err != nil {
		return nil, err
	}
	var gone []Item
	for _, i := range slices.DeleteFunc(items, func(i Item) bool { return !choose(i) }) {
		done, err := s.prune(i)
		if err != nil {
			return gone, err
		}
		if done {
			gone = append(gone, i)
		}
	}
	return gone, nil
}

func (s *Store) prune(i Item) (bool, error) {
	var names []string
	switch i.Kind {
	case Other:
		return false, nil
	case Log: // its own lock
		f, err := os.Open(i.path)
		if err != nil {
			return false, ignore(err, fs.ErrNotExist) // another process pruned it
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return false, ignore(err, unix.EWOULDBLOCK)
		}
	case Output, Download:
		names = []string{i.lock, i.lock + usedMark}
	default:
		names = []string{i.lock}
	}
	for _, name := range names {
		h, err := s.tryLock(name, unix.LOCK_EX)
		if err == unix.EWOULDBLOCK {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer h.release()
		// A process that waits for this lock finds its file removed, and creates a new one.
		defer os.Remove(h.f.Name())
	}
	if i.Kind != Output {
		return true, remove(i.path)
	}
	// An output is removed in one step, so that no process hashes half of one.
	trash := s.in(tmp, i.lock+tmpMark+"pruned")
	if err := remove(trash); err != nil {
		return false, err
	}
	if err := os.Rename(i.path, trash); err != nil {
		return false, ignore(err, fs.ErrNotExist)
	}
	return true, remove(trash)
}
