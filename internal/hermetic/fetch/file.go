package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// WriteError is an error of this machine while it writes a download. Another mirror would not help.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// Report receives the state of a download: n more bytes are there (fewer, if n is negative), or a note
// about a mirror that failed.
type Report func(n int64, note string)

// GoneError is the error of locked files that no mirror serves, and that at least one says not to have.
type GoneError struct {
	Files []lock.File
	Err   error // what the mirrors said
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%d files of neb.lock are gone from the mirrors; run 'neb update', build once with "+
		"'neb build --update-missing', or set NEB_MIRROR to a mirror that has them:\n%v", len(e.Files), e.Err)
}

func (e *GoneError) Unwrap() error { return e.Err }

// progress is how many bytes a mirror must send before it breaks off, for [ask] to reset its rounds.
const progress = 64 << 10

// File downloads a locked file into to and verifies its size and SHA-256. It resumes behind what to holds
// already; if it returns an error, what it received stays in to for the next call, unless it was wrong.
func (m Mirrors) File(ctx context.Context, f lock.File, to *os.File, report Report) error {
	p := &part{f: to, want: f, hash: sha256.New(), report: report}
	n, err := io.Copy(p.hash, stream.Reader(ctx, to))
	if err != nil {
		return &WriteError{err}
	}
	p.add(n)
	if p.have >= f.Size && p.verify() == nil {
		return nil
	}
	for _, r := range m.Remotes {
		body := r.Download(ctx, f.SHA256, f.Size, p.have)
		err := p.receive(body)
		body.Close()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && !errors.Is(err, remote.ErrNotFound) {
			report(0, fmt.Sprintf("%s: %v", r, err))
		}
	}
	urls := m.urls(f)
	if len(urls) == 0 {
		return fmt.Errorf("%s %s: no mirror is configured for %s: %s", f.Name, f.Version, f.Path,
			hint[f.Archive])
	}
	err = ask(ctx, urls, func(address string) (bool, error) {
		before := p.have
		err := m.resume(ctx, address, p)
		if err != nil && ctx.Err() == nil {
			report(0, fmt.Sprintf("%s: %v", Redacted(address), err))
		}
		return p.have-before >= progress && !errors.Is(err, stream.ErrSlow), err
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s %s: %s: download failed:\n  %w", f.Name, f.Version, f.Path, err)
	var none *refusals
	if errors.As(err, &none) && none.gone() {
		err = &GoneError{[]lock.File{f}, err}
	}
	return err
}

// hint says what to do if no mirror is configured, by archive.
var hint = map[string]string{
	lock.Debian:   "set NEB_MIRROR to a mirror of Debian",
	lock.Security: "set NEB_MIRROR to a mirror of Debian",
	lock.GoProxy:  "set GOPROXY to a Go module proxy",
}

// resume downloads the rest of a file from one mirror and verifies it.
func (m Mirrors) resume(ctx context.Context, address string, p *part) error {
	body, start, size, err := m.open(ctx, address, p.have)
	if err != nil {
		return err
	}
	defer body.Close()
	if size >= 0 && size != p.want.Size {
		return p.wrongSize(size)
	}
	if start != p.have {
		if err := p.restart(); err != nil {
			return err
		}
	}
	err = p.receive(body)
	if err != nil && start > 0 && p.have == 0 && ctx.Err() == nil {
		return m.resume(ctx, address, p) // the first part may be what was wrong
	}
	return err
}

// receive appends the rest of the file and verifies the whole.
func (p *part) receive(body io.Reader) error {
	// One byte more than is expected shows a file that is too long.
	if _, err := io.CopyBuffer(p, io.LimitReader(body, p.want.Size-p.have+1),
		make([]byte, 128<<10)); err != nil {
		return err
	}
	if p.have < p.want.Size {
		return fmt.Errorf("truncated after %d of %d bytes: %w", p.have, p.want.Size, io.ErrUnexpectedEOF)
	}
	return p.verify()
}

// part is the part of a file that has been downloaded.
type part struct {
	f      *os.File
	want   lock.File
	have   int64 // bytes
	hash   hash.Hash
	report Report
}

// Write appends to the part. Its errors are of type *[WriteError].
func (p *part) Write(data []byte) (int, error) {
	n, err := p.f.WriteAt(data, p.have)
	if err != nil {
		return n, &WriteError{err}
	}
	p.hash.Write(data)
	p.add(int64(n))
	return n, nil
}

func (p *part) add(n int64) {
	p.have += n
	p.report(n, "")
}

// restart drops what has been downloaded.
func (p *part) restart() error {
	if err := p.f.Truncate(0); err != nil {
		return &WriteError{err}
	}
	p.hash.Reset()
	p.add(-p.have)
	return nil
}

// verify checks the size and the hash of a part that is complete, and drops a wrong one.
func (p *part) verify() error {
	if p.have != p.want.Size {
		return errors.Join(p.wrongSize(p.have), p.restart())
	}
	sum := hex.EncodeToString(p.hash.Sum(nil))
	if sum == p.want.SHA256 {
		return nil
	}
	if err := p.restart(); err != nil {
		return err
	}
	return final{fmt.Errorf("wrong content of %s: expected SHA-256 %s, found %s", p.want.Path, p.want.SHA256,
		sum)}
}

func (p *part) wrongSize(found int64) error {
	return final{fmt.Errorf("wrong size of %s: expected %d bytes, found %d", p.want.Path, p.want.Size, found)}
}
