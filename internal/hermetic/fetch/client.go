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

// DefaultStall is how long a mirror may say nothing before it is given up.
const DefaultStall = 30 * time.Second

// ErrNotThere is the error of a mirror that works and does not have the file.
var ErrNotThere = errors.New("not there")

// StatusError is the error of a mirror that answered with a status that is not an answer.
type StatusError struct{ Status string }

func (e *StatusError) Error() string { return "answered " + e.Status }

// StallError is the error of a mirror that stopped sending.
type StallError struct{ After time.Duration }

func (e *StallError) Error() string { return fmt.Sprintf("sent nothing for %v", e.After) }

// Client reads files from mirrors. The zero value is ready to use.
type Client struct {
	HTTP  *http.Client  // nil: one of neb's own, which goes through the proxies of the environment
	Stall time.Duration // how long a mirror may say nothing; 0: [DefaultStall]
}

// plain is the client for all downloads. Content comes as it is stored: neither names nor hashes are of
// something that was compressed for the way.
var plain = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   15 * time.Second,
	ForceAttemptHTTP2:     true,
	DisableCompression:    true,
	MaxIdleConnsPerHost:   16,
	IdleConnTimeout:       time.Minute,
	ExpectContinueTimeout: time.Second,
}}

// Body is a file on its way.
type Body struct {
	io.ReadCloser
	Start int64 // where in the file the first byte belongs: the offset asked for, or 0
	Size  int64 // of the whole file in bytes, or -1 where the mirror does not say
}

// Open asks for a file from an offset on. The mirror may begin at 0 all the same: see Body.Start. An offset
// behind the file's end begins at 0.
//
// A read fails with a [StallError] when nothing came for a while, and with [io.ErrUnexpectedEOF] when the mirror
// ended the body before its length.
func (c Client) Open(ctx context.Context, address string, offset int64) (*Body, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return openFile(u.Path, offset)
	}
	parent := ctx
	ctx, cancel := context.WithCancelCause(parent)
	stall := c.Stall
	if stall == 0 {
		stall = DefaultStall
	}
	timer := time.AfterFunc(stall, func() { cancel(&StallError{stall}) })
	give := func(err error) error {
		timer.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, give(err)
	}
	req.Header.Set("User-Agent", "neb")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := c.HTTP
	if client == nil {
		client = plain
	}
	resp, err := client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL is named by the caller, without its password
		}
		return nil, give(err)
	}
	body := &Body{ReadCloser: &watched{resp.Body, timer, stall, give}, Size: resp.ContentLength}
	switch resp.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusPartialContent:
		var start, end, size int64
		if n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &start, &end, &size); n == 3 && start == offset {
			body.Start, body.Size = start, size
			return body, nil
		}
		err = fmt.Errorf("answered with the range %q, asked for %d-", resp.Header.Get("Content-Range"), offset)
	case http.StatusRequestedRangeNotSatisfiable:
		body.Close()
		if offset > 0 {
			return c.Open(parent, address, 0)
		}
		err = &StatusError{resp.Status}
	case http.StatusNotFound, http.StatusGone:
		err = ErrNotThere
	default:
		err = &StatusError{resp.Status}
	}
	body.Close()
	return nil, err
}

func openFile(name string, offset int64) (*Body, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotThere
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("expected a regular file, found %v", info.Mode())
	}
	if err == nil && offset > info.Size() {
		offset = 0
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Body{f, offset, info.Size()}, nil
}

// watched is a body whose every read sets the timer back that would give it up.
type watched struct {
	body  io.ReadCloser
	timer *time.Timer
	stall time.Duration
	give  func(error) error // ends the request; returns why it ended, if there is a reason
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop()
	if err != nil && err != io.EOF {
		err = w.give(err)
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.body.Close()
	w.give(nil)
	return err
}

// Redacted is a URL as it may be shown: without a password.
func Redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Redacted()
}

// Get reads a whole small file: from the first of the URLs that has it and for which check finds nothing wrong.
// most is the size in bytes above which a file is not read on.
func (c Client) Get(ctx context.Context, urls []string, most int64, check func([]byte) error) ([]byte, error) {
	var failures []string
	for _, address := range urls {
		data, err := c.get(ctx, address, most)
		if err == nil {
			err = check(data)
		}
		if err == nil {
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		failures = append(failures, fmt.Sprintf("%s: %v", Redacted(address), err))
	}
	if len(failures) == 0 {
		return nil, errors.New("no mirror to ask: set NEB_MIRROR")
	}
	return nil, errors.New(strings.Join(failures, "\n  "))
}

func (c Client) get(ctx context.Context, address string, most int64) ([]byte, error) {
	const tries = 3
	for try := 1; ; try++ {
		data, err := c.getOnce(ctx, address, most)
		if err == nil || try == tries || !Passing(err) || ctx.Err() != nil {
			return data, err
		}
		if err := Pause(ctx, try); err != nil {
			return nil, err
		}
	}
}

func (c Client) getOnce(ctx context.Context, address string, most int64) ([]byte, error) {
	body, err := c.Open(ctx, address, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("larger than %d bytes", most)
	}
	return data, err
}

// Passing reports whether the same mirror may do better when asked again: it was busy, or the line broke.
func Passing(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return strings.HasPrefix(status.Status, "5") || strings.HasPrefix(status.Status, "429") || strings.HasPrefix(status.Status, "408")
	}
	var network net.Error
	var stalled *StallError
	return errors.As(err, &stalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || errors.Is(err, io.EOF)
}

// Pause waits before the next try: a moment, then twice as long each time.
func Pause(ctx context.Context, try int) error {
	select {
	case <-time.After(250 * time.Millisecond << min(try-1, 4)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
