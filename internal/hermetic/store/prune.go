package store

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
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

// kinds are the kinds of what is in the subdirectories of a store.
var kinds = map[string]Kind{downloads: Download, partial: Partial, outputs: Output, tmp: Making, logs: Log}

// List returns what is in the store, sorted by kind and name.
func (s *Store) List(ctx context.Context) ([]Item, error) {
	var items []Item
	top, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range top {
		kind := kinds[sub.Name()]
		entries := []os.DirEntry{sub}
		dir := s.dir
		switch {
		case sub.Name() == locks:
			continue
		case kind == "":
			kind = Other
		default:
			dir = filepath.Join(s.dir, sub.Name())
			if entries, err = os.ReadDir(dir); err != nil {
				return nil, err
			}
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := os.Stat(path) // a download may be a symbolic link
			if err != nil {
				continue
			}
			i := Item{Kind: kind, Name: e.Name(), Size: info.Size(), Used: info.ModTime(), path: path}
			i.lock, _, _ = strings.Cut(i.Name, tmpMark)
			if known := kind == Output && i.readManifest(); info.IsDir() && !known {
				i.Size = 0
				_ = tree.Walk(ctx, path, nil, func(_ string, e tree.Entry) error {
					i.Size += e.Size
					return nil
				})
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			items = append(items, i)
		}
	}
	return items, nil
}

// readManifest sets the size and the last use of an output, unless its manifest is damaged.
func (i *Item) readManifest() bool {
	name := filepath.Join(i.path, manifest)
	data, err := os.ReadFile(name)
	var entries []tree.Entry
	if err != nil || json.Unmarshal(data, &entries) != nil {
		return false
	}
	i.Size = int64(len(data))
	for _, e := range entries {
		i.Size += e.Size
	}
	if info, err := os.Stat(name); err == nil {
		i.Used = info.ModTime()
	}
	return true
}

// Prune removes the items for which choose returns true, and returns them. It keeps items that a process
// makes or uses, and those of kind [Other].
func (s *Store) Prune(ctx context.Context, choose func(Item) bool) ([]Item, error) {
	items, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var gone []Item
	for _, i := range items {
		if !choose(i) {
			continue
		}
		done, err := s.remove(ctx, i)
		if err != nil {
			return gone, err
		}
		if done {
			gone = append(gone, i)
		}
	}
	return gone, nil
}

// remove removes an item unless a process uses it.
func (s *Store) remove(ctx context.Context, i Item) (bool, error) {
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
		return true, tree.Remove(ctx, i.path)
	}
	// An output is removed in one step, so that no process hashes half of one.
	trash := s.in(tmp, i.lock+tmpMark+"pruned")
	if err := tree.Remove(ctx, trash); err != nil {
		return false, err
	}
	if err := os.Rename(i.path, trash); err != nil {
		return false, ignore(err, fs.ErrNotExist)
	}
	return true, tree.Remove(ctx, trash)
}
