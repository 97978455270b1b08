package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultStall is how long a mirror may send nothing before the download from it times out.
const DefaultStall = 30 * time.Second

// ErrNotFound is the error of a mirror that answers and does not have the file.
var ErrNotFound = errors.New("not found")

// errStalled is the error of a mirror that stopped sending.
var errStalled = errors.New("sent no data")

// errUnverified is the error of a download whose first part was not received just now: that part may be
// what is wrong.
var errUnverified = errors.New("after resuming; retrying from the start")

// statusError is the error of a mirror that answered with an unexpected status.
type statusError struct {
	code   int
	status string
}

func (e *statusError) Error() string { return "answered " + e.status }

// Client downloads from mirrors. The zero value is ready to use.
type Client struct {
	HTTP  *http.Client  // nil: neb's own, which uses the proxies of the environment
	Stall time.Duration // how long a mirror may send nothing; 0: [DefaultStall]
}

// defaultHTTP serves all downloads. It does not ask for compression, because hashes are of the stored
// content.
var defaultHTTP = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   15 * time.Second,
	ForceAttemptHTTP2:     true,
	DisableCompression:    true,
	MaxIdleConnsPerHost:   16,
	IdleConnTimeout:       time.Minute,
	ExpectContinueTimeout: time.Second,
}}

// body is the content of a file as a mirror sends it.
type body struct {
	io.ReadCloser
	start int64 // offset of the first byte: the one asked for, or 0
	size  int64 // of the whole file in bytes, or -1 if the mirror does not give it
}

// open requests a file from an offset on. A mirror without ranges starts at 0; see body.start. A Read fails
// with errStalled if no data arrives for c.Stall, and with [io.ErrUnexpectedEOF] if the content ends before
// its length.
func (c Client) open(ctx context.Context, address string, offset int64) (*body, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return openFile(u.Path, offset)
	}
	s := &stallReader{stall: c.Stall}
	if s.stall == 0 {
		s.stall = DefaultStall
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.timer = time.AfterFunc(s.stall, func() { s.cancel(fmt.Errorf("%w for %v", errStalled, s.stall)) })
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, address, nil)
	if err != nil {
		s.stop()
		return nil, err
	}
	req.Header.Set("User-Agent", "neb")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := c.HTTP
	if client == nil {
		client = defaultHTTP
	}
	resp, err := client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the caller names the URL, without its password
		}
		err = s.because(err)
		s.stop()
		return nil, err
	}
	s.body = resp.Body
	b := &body{ReadCloser: s, size: resp.ContentLength}
	switch resp.StatusCode {
	case http.StatusOK:
		return b, nil
	case http.StatusPartialContent:
		var start, end, size int64
		found := resp.Header.Get("Content-Range")
		if n, _ := fmt.Sscanf(found, "bytes %d-%d/%d", &start, &end, &size); n == 3 && start == offset {
			b.start, b.size = start, size
			return b, nil
		}
		err = fmt.Errorf("answered with range %q, expected %d-", found, offset)
	case http.StatusNotFound, http.StatusGone:
		err = ErrNotFound
	default:
		err = &statusError{resp.StatusCode, resp.Status}
	}
	b.Close()
	return nil, err
}

func openFile(name string, offset int64) (*body, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("expected a regular file, found %v", info.Mode())
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &body{f, offset, info.Size()}, nil
}

// stallReader is the body of a response. It ends the request when no data arrives for a while.
type stallReader struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	timer  *time.Timer
	stall  time.Duration
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.timer.Reset(s.stall)
	n, err := s.body.Read(p)
	s.timer.Stop()
	if err != nil && err != io.EOF {
		err = s.because(err)
	}
	return n, err
}

// because returns the reason why the request was cancelled, or err if it was not.
func (s *stallReader) because(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	return err
}

func (s *stallReader) stop() {
	s.timer.Stop()
	s.cancel(nil)
}

func (s *stallReader) Close() error {
	s.stop()
	return s.body.Close()
}

// Redacted returns a URL without its password.
func Redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Redacted()
}

// Get downloads a small file into memory: from the first of the URLs that has it and for which check
// returns nil. It fails if the file is larger than most bytes.
func (c Client) Get(ctx context.Context, urls []string, most int64, check func([]byte) error) ([]byte,
	error) {
	if len(urls) == 0 {
		return nil, errors.New("no mirror is configured: set NEB_MIRROR")
	}
	var data []byte
	err := ask(ctx, urls, func(address string) (bool, error) {
		b, err := c.open(ctx, address, 0)
		if err != nil {
			return false, err
		}
		defer b.Close()
		data, err = io.ReadAll(io.LimitReader(b, most+1))
		if err == nil && int64(len(data)) > most {
			err = fmt.Errorf("larger than %d bytes", most)
		}
		if err != nil {
			return false, err
		}
		return false, check(data)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// rounds is how often each mirror is asked while none of them sends anything new.
const rounds = 3

// ask calls try with each of the URLs in order until it returns nil, and then again with those whose error
// may pass. Progress means that the next call of try has less left to do. The error is a *refusals, the
// cause of ctx, or a
// *[WriteError].
func ask(ctx context.Context, urls []string, try func(address string) (progress bool, err error)) error {
	last := map[string]error{}
	left := urls
	for round := 1; len(left) > 0; round++ {
		var again []string
		for _, address := range left {
			progress, err := try(address)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var local *WriteError
			if errors.As(err, &local) {
				return err
			}
			last[address] = err
			if progress {
				round = 0 // slow is not dead
			}
			if retryable(err) {
				again = append(again, address)
			}
		}
		left = again
		if round == rounds {
			break
		}
		if len(left) > 0 {
			select {
			case <-time.After(125 * time.Millisecond << round):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return &refusals{urls, last}
}

// refusals is the error of a file that no mirror serves.
type refusals struct {
	urls []string
	last map[string]error // by URL
}

func (r *refusals) Error() string {
	var lines []string
	for _, address := range r.urls {
		lines = append(lines, fmt.Sprintf("%s: %v", Redacted(address), r.last[address]))
	}
	return strings.Join(lines, "\n  ")
}

// notFound counts the mirrors that do not have the file.
func (r *refusals) notFound() int {
	n := 0
	for _, err := range r.last {
		if errors.Is(err, ErrNotFound) {
			n++
		}
	}
	return n
}

// retryable reports whether the same mirror may do better when asked again: it was busy, or the connection
// broke.
func retryable(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests ||
			status.code == http.StatusRequestTimeout
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, errStalled) || errors.Is(err, errUnverified) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
