package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// FetchOptions are options of [Store.Fetch]. The zero value uses this machine's mirrors.
type FetchOptions struct {
	Offline    bool             // fail if a file is not in the store
	Progress   progress.Func    // of bytes, as stage "fetch"; notes about mirrors that failed
	Mirrors    *fetch.Mirrors   // nil: [fetch.OfMachine]
	MirrorOnly bool             // of this machine's mirrors, those in NEB_MIRROR only
	Remotes    []*remote.Remote // asked before the mirrors
}

// parallelDownloads is how many files are downloaded at once.
const parallelDownloads = 6

// Fetch downloads the files that are not in the store yet, and verifies the size and SHA-256 of all. It
// resumes what an earlier call left. No process can prune the files before [Store.Close].
func (s *Store) Fetch(ctx context.Context, files []lock.File, o FetchOptions) error {
	for _, f := range files {
		if err := s.keep(ctx, f.SHA256); err != nil {
			return err
		}
	}
	missing, err := s.verify(ctx, files)
	if err != nil || len(missing) == 0 {
		return err
	}
	if o.Offline || s.readOnly {
		return s.missing(missing, o.Offline)
	}
	if o.Mirrors == nil {
		m, err := fetch.OfMachine(ctx, "/", o.MirrorOnly)
		if err != nil {
			return err
		}
		m.Remotes = o.Remotes
		o.Mirrors = &m
	}
	// The largest file first: it would otherwise be the only download at the end.
	slices.SortStableFunc(missing, func(a, b lock.File) int { return cmp.Compare(b.Size, a.Size) })
	d := &download{store: s, FetchOptions: o}
	for _, file := range missing {
		d.total += file.Size
	}
	d.report(0, "")
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDownloads)
	for _, file := range missing {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := d.file(ctx, file)
			var gone *fetch.GoneError
			if errors.As(err, &gone) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.gone.Files = append(d.gone.Files, file)
				d.gone.Err = errors.Join(d.gone.Err, gone.Err)
				return nil // the other files are still useful, and the error names all that are gone
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if d.gone.Err != nil {
		return &d.gone
	}
	d.report(0, "")
	return nil
}

// keep protects the download with that hash from being pruned.
func (s *Store) keep(ctx context.Context, sum string) error {
	if s.readOnly {
		return nil
	}
	h, err := s.lock(ctx, sum+usedMark, unix.LOCK_SH)
	if err == nil {
		s.hold(sum, h)
	}
	return err
}

// verify returns the files that are missing from the store or damaged there, each once.
func (s *Store) verify(ctx context.Context, files []lock.File) ([]lock.File, error) {
	wrong := make([]bool, len(files))
	first := map[string]int{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range files {
		if j, twice := first[f.SHA256]; twice {
			if files[j].Size != f.Size {
				return nil, fmt.Errorf("%s: neb.lock has two sizes for one hash: %d and %d bytes", f.Path,
					files[j].Size, f.Size)
			}
			continue
		}
		first[f.SHA256] = i
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			ok, err := s.has(ctx, f)
			wrong[i] = !ok
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var missing []lock.File
	for i, f := range files {
		if wrong[i] {
			missing = append(missing, f)
		}
	}
	return missing, nil
}

// has reports whether an undamaged download is in the store.
func (s *Store) has(ctx context.Context, f lock.File) (bool, error) {
	path := s.Path(f)
	sum, size, err := stream.SHA256(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	if size == f.Size && sum == f.SHA256 {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // for prune; fails in a read-only store
		return true, nil
	}
	if s.readOnly {
		return false, fmt.Errorf("store %s: %s is damaged and the store is read-only: "+
			"expected %d bytes with SHA-256 %s, found %d bytes with %s",
			s.dir, path, f.Size, f.SHA256, size, sum)
	}
	return false, nil
}

// missing returns the error for files that are not in the store and cannot be fetched.
func (s *Store) missing(files []lock.File, offline bool) error {
	why := "the store is read-only: set NEB_CACHE to a directory that you can write to"
	if offline {
		why = "--offline forbids downloads: run the same command once without it"
	}
	var size int64
	var list strings.Builder
	for _, f := range files {
		size += f.Size
		fmt.Fprintf(&list, "\n  %s %s (%s)", f.Name, f.Version, f.Path)
	}
	return fmt.Errorf("store %s: %d files (%d bytes) are missing, and %s:%s", s.dir, len(files), size, why,
		list.String())
}

// download is one call of Fetch.
type download struct {
	FetchOptions
	store *Store
	total int64
	done  atomic.Int64
	last  atomic.Int64 // when progress was last reported, in nanoseconds

	mu   sync.Mutex
	gone fetch.GoneError
}

// report counts n more bytes and reports progress, ten times a second at most. A note is always reported.
func (d *download) report(n int64, note string) {
	done, now := d.done.Add(n), time.Now().UnixNano()
	if note == "" && done != 0 && done != d.total && now-d.last.Load() < int64(100*time.Millisecond) {
		return
	}
	d.last.Store(now)
	d.Progress.Send(progress.Event{Stage: "fetch", Done: done, Total: d.total, Unit: "bytes", Note: note})
}

// file downloads one file, unless another process was faster.
func (d *download) file(ctx context.Context, file lock.File) error {
	held, err := d.store.lock(ctx, file.SHA256, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer held.release()
	if ok, err := d.store.has(ctx, file); ok || err != nil {
		if ok {
			d.report(file.Size, "")
		}
		return err
	}
	path := d.store.Path(file)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is damaged
		return fmt.Errorf("store: %w", &localError{err})
	}
	f, err := d.store.openPart(file)
	if err != nil {
		return err
	}
	defer f.Close()
	err = d.Mirrors.File(ctx, file, f, d.report)
	var local *fetch.WriteError
	if errors.As(err, &local) {
		return fmt.Errorf("%s: %w", file.Name, &localError{local.Err})
	}
	if err != nil {
		return err
	}
	return keepPart(f, path)
}

// openPart opens the part of a file that earlier calls downloaded.
func (s *Store) openPart(file lock.File) (*os.File, error) {
	path := s.in(partial, file.SHA256)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(path, 0o644) == nil {
		f, err = os.OpenFile(path, os.O_RDWR, 0) // a process was killed in keepPart
	}
	if err != nil {
		return nil, &localError{err}
	}
	return f, nil
}

// keepPart turns a verified part into a download. The content is on disk before the name is.
func keepPart(f *os.File, name string) error {
	err := f.Sync()
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return &localError{err}
	}
	return nil
}

// localError is an error of this machine. A full disk gets advice.
type localError struct{ err error }

func (e *localError) Error() string {
	if errors.Is(e.err, syscall.ENOSPC) || errors.Is(e.err, syscall.EDQUOT) {
		return fmt.Sprintf("the store is full (%v): "+
			"free space with 'neb cache prune', or set NEB_CACHE to a larger disk", e.err)
	}
	return e.err.Error()
}

func (e *localError) Unwrap() error { return e.err }
