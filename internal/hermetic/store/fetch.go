package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
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
)

// FetchOptions say how [Store.Fetch] gets files. The zero value asks this machine's mirrors.
type FetchOptions struct {
	Offline  bool           // use what is in the store, and name what is not
	Progress progress.Func  // bytes fetched, as stage "fetch"; notes about mirrors that failed
	Mirrors  *fetch.Mirrors // nil: [fetch.OfMachine]
	Client   fetch.Client
	Parallel int // files at once; 0: 6
}

// rounds is how often all mirrors are asked for a file when none of them makes progress with it.
const rounds = 3

// Fetch brings files into the store and verifies them: size and SHA-256, those that are there already
// included. It goes on where an earlier call was interrupted. What it brought stays until [Store.Close]: nobody prunes it.
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
		m, err := fetch.OfMachine(ctx, "/")
		if err != nil {
			return err
		}
		o.Mirrors = &m
	}
	// The largest first: one that came last would be waited for alone.
	slices.SortStableFunc(missing, func(a, b lock.File) int { return cmp.Compare(b.Size, a.Size) })
	f := &download{store: s, FetchOptions: o}
	for _, file := range missing {
		f.total += file.Size
	}
	f.report("")
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(o.Parallel, 6))
	for _, file := range missing {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return f.file(ctx, file)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	f.report("")
	return nil
}

// keep holds what has that hash against prune.
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

// verify returns those of the files that are not in the store as they must be, each once.
func (s *Store) verify(ctx context.Context, files []lock.File) ([]lock.File, error) {
	wrong := make([]bool, len(files))
	first := map[string]int{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelHashes)
	for i, f := range files {
		if j, twice := first[f.SHA256]; twice {
			if files[j].Size != f.Size {
				return nil, fmt.Errorf("%s: the lock gives two sizes for one hash", f.Path)
			}
			continue
		}
		first[f.SHA256] = i
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			ok, err := s.has(f)
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

// has reports whether a download is in the store, as it must be.
func (s *Store) has(f lock.File) (bool, error) {
	path := s.Path(f)
	size, sum, err := hashFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	if size == f.Size && sum == f.SHA256 {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // for prune; a store that cannot be written to need not know
		return true, nil
	}
	if s.readOnly {
		return false, fmt.Errorf("store %s: %s is damaged and the store cannot be written to: expected %d bytes with SHA-256 %s, found %d bytes with %s", s.dir, path, f.Size, f.SHA256, size, sum)
	}
	return false, nil
}

// missing is the error of files that are not in the store and cannot be fetched.
func (s *Store) missing(files []lock.File, offline bool) error {
	why := "and it cannot be written to: fetch into one that can, with NEB_CACHE"
	if offline {
		why = "and --offline forbids fetching: run the same command once without it"
	}
	var size int64
	var list strings.Builder
	for _, f := range files {
		size += f.Size
		fmt.Fprintf(&list, "\n  %s %s (%s)", f.Name, f.Version, f.Path)
	}
	return fmt.Errorf("store %s: %d files (%d bytes) are not in it, %s:%s", s.dir, len(files), size, why, list.String())
}

// download is one call of Fetch.
type download struct {
	FetchOptions
	store *Store
	total int64
	done  atomic.Int64
	last  atomic.Int64 // when progress was last reported, in nanoseconds
	slow  sync.Map     // by host, the mirrors that stalled: asked last from then on
}

func (f *download) report(note string) {
	now := time.Now().UnixNano()
	done := f.done.Load()
	if last := f.last.Load(); note == "" && done != 0 && done != f.total && now-last < int64(100*time.Millisecond) {
		return
	}
	f.last.Store(now)
	f.Progress.Send(progress.Event{Stage: "fetch", Done: done, Total: f.total, Unit: "bytes", Note: note})
}

// file fetches one file, from the first mirror that has it as the lock names it.
func (f *download) file(ctx context.Context, file lock.File) error {
	held, err := f.store.lock(ctx, file.SHA256, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer held.release()
	if ok, err := f.store.has(file); ok || err != nil { // another process may have been faster
		if ok {
			f.done.Add(file.Size)
			f.report("")
		}
		return err
	}
	if err := os.Remove(f.store.Path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is damaged
		return fmt.Errorf("store: %w", &localError{err})
	}
	p, err := f.store.openPart(file, &f.done)
	if err != nil {
		return err
	}
	defer p.f.Close()

	urls := f.order(f.Mirrors.URLs(file))
	if len(urls) == 0 {
		return fmt.Errorf("%s %s: no mirror to ask for %s: %s", file.Name, file.Version, file.Path, hint[file.Archive])
	}
	failed := map[string]error{}
	for round := 1; round <= rounds && len(urls) > 0; round++ {
		before := p.have
		var left []string
		for _, address := range urls {
			err := f.from(ctx, address, file, p)
			if err == nil {
				return p.keep(f.store.Path(file))
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var local *localError
			if errors.As(err, &local) {
				return fmt.Errorf("%s: %w", file.Name, err)
			}
			failed[address] = err
			f.report(fmt.Sprintf("%s: %v", fetch.Redacted(address), err))
			if fetch.Passing(err) {
				left = append(left, address)
			}
		}
		urls = left
		if p.have > before {
			round = 0 // slow is not dead
		}
		if len(urls) > 0 {
			if err := fetch.Pause(ctx, max(round, 1)); err != nil {
				return err
			}
		}
	}
	return notFetched(file, f.Mirrors.URLs(file), failed)
}

// hint is what to do where there is nobody to ask, by archive.
var hint = map[string]string{
	lock.Debian:   "set NEB_MIRROR to a mirror of Debian",
	lock.Security: "set NEB_MIRROR to a mirror of Debian",
	lock.GoProxy:  "set GOPROXY to a Go module proxy",
}

// notFetched is the error of a file that no mirror served. A mirror that lacks it may mean that the lock is too old,
// even where another could not be asked (the archive of snapshots from behind a firewall).
func notFetched(file lock.File, urls []string, failed map[string]error) error {
	var list strings.Builder
	lacking := 0
	for _, address := range urls {
		fmt.Fprintf(&list, "\n  %s: %v", fetch.Redacted(address), failed[address])
		if errors.Is(failed[address], fetch.ErrNotThere) {
			lacking++
		}
	}
	what, then := "could not be fetched", ""
	if lacking == len(urls) {
		what = "no mirror has " + file.Path + " any more"
	}
	if lacking > 0 {
		then = ": run 'neb update', or set NEB_MIRROR to a mirror that has it"
	}
	return fmt.Errorf("%s %s: %s%s:%s", file.Name, file.Version, what, then, list.String())
}

// order puts the mirrors that stalled behind the others.
func (f *download) order(urls []string) []string {
	urls = slices.Clone(urls)
	slices.SortStableFunc(urls, func(a, b string) int {
		return cmp.Compare(f.isSlow(a), f.isSlow(b))
	})
	return urls
}

func (f *download) isSlow(address string) int {
	if u, err := url.Parse(address); err == nil {
		if _, slow := f.slow.Load(u.Host); slow {
			return 1
		}
	}
	return 0
}

// from goes on with a download at one mirror, to its end and to its verification.
func (f *download) from(ctx context.Context, address string, file lock.File, p *part) error {
	for {
		resumed := p.have > 0
		err := f.once(ctx, address, file, p)
		var wrong *wrongError
		if resumed && errors.As(err, &wrong) && wrong.hash != "" {
			// The part that was there may be what is wrong, and this mirror right.
			if err := p.restart(); err != nil {
				return err
			}
			continue
		}
		// Packets that nobody answers end in the dialler's time limit.
		var stalled *fetch.StallError
		var network net.Error
		if errors.As(err, &stalled) || errors.As(err, &network) && network.Timeout() {
			if u, err := url.Parse(address); err == nil {
				f.slow.Store(u.Host, true)
			}
		}
		return err
	}
}

// wrongError is the error of a mirror that has another file than the lock names.
type wrongError struct {
	file lock.File
	size int64
	hash string // "" where the size was enough to know
}

func (e *wrongError) Error() string {
	if e.hash == "" {
		return fmt.Sprintf("wrong size of %s: expected %d bytes, found %d", e.file.Path, e.file.Size, e.size)
	}
	return fmt.Sprintf("wrong content of %s: expected SHA-256 %s, found %s", e.file.Path, e.file.SHA256, e.hash)
}

func (f *download) once(ctx context.Context, address string, file lock.File, p *part) error {
	if p.have < file.Size {
		body, err := f.Client.Open(ctx, address, p.have)
		if err != nil {
			return err
		}
		defer body.Close()
		if body.Size >= 0 && body.Size != file.Size {
			return &wrongError{file: file, size: body.Size}
		}
		if body.Start != p.have {
			if err := p.restart(); err != nil {
				return err
			}
		}
		buffer := make([]byte, 128<<10)
		for {
			n, err := body.Read(buffer)
			if int64(n) > file.Size-p.have {
				// Without a length the size shows only now.
				size := p.have + int64(n)
				if err := p.restart(); err != nil {
					return err
				}
				return &wrongError{file: file, size: size}
			}
			if err := p.write(buffer[:n]); err != nil {
				return err
			}
			f.report("")
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		if p.have < file.Size {
			return fmt.Errorf("truncated after %d of %d bytes: %w", p.have, file.Size, io.ErrUnexpectedEOF)
		}
	}
	if sum := hex.EncodeToString(p.hash.Sum(nil)); sum != file.SHA256 {
		if err := p.restart(); err != nil {
			return err
		}
		return &wrongError{file: file, size: file.Size, hash: sum}
	}
	return nil
}

// part is what has come of a download so far. Its lock is held by whoever has it open.
type part struct {
	f    *os.File
	have int64 // bytes
	hash hash.Hash
	done *atomic.Int64 // counts what is here for the progress of all
}

// localError is the error of this machine, which another mirror would not mend.
type localError struct{ err error }

func (e *localError) Error() string {
	if errors.Is(e.err, syscall.ENOSPC) || errors.Is(e.err, syscall.EDQUOT) {
		return fmt.Sprintf("the store is full (%v): free space ('neb cache prune'), or set NEB_CACHE to a larger place", e.err)
	}
	return e.err.Error()
}

func (e *localError) Unwrap() error { return e.err }

// openPart opens what is there of a file, and hashes it.
func (s *Store) openPart(file lock.File, done *atomic.Int64) (*part, error) {
	path := s.in(partial, file.SHA256)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(path, 0o644) == nil {
		f, err = os.OpenFile(path, os.O_RDWR, 0) // a process was killed in keep
	}
	if err != nil {
		return nil, &localError{err}
	}
	p := &part{f: f, hash: sha256.New(), done: done}
	p.have, err = io.Copy(p.hash, f)
	done.Add(p.have)
	if err == nil && p.have > file.Size {
		err = p.restart()
	}
	if err != nil {
		f.Close()
		return nil, &localError{err}
	}
	return p, nil
}

func (p *part) write(data []byte) error {
	if _, err := p.f.WriteAt(data, p.have); err != nil {
		return &localError{err}
	}
	p.hash.Write(data)
	p.have += int64(len(data))
	p.done.Add(int64(len(data)))
	return nil
}

// restart forgets what has come.
func (p *part) restart() error {
	p.done.Add(-p.have)
	p.have = 0
	p.hash.Reset()
	if err := p.f.Truncate(0); err != nil {
		return &localError{err}
	}
	return nil
}

// keep makes a verified part a download.
func (p *part) keep(name string) error {
	err := p.f.Sync()
	if err == nil {
		err = p.f.Chmod(0o444)
	}
	if err == nil {
		err = os.Rename(p.f.Name(), name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return &localError{err}
	}
	return nil
}
