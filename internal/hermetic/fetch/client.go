package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// errNotFound is the error of a mirror that answers and does not have the file.
var errNotFound = final{errors.New("not found")}

// final is an error that the same mirror would repeat.
type final struct{ error }

// client returns an HTTP client that also reads file:// URLs. It does not ask for compression, because hashes
// are of the stored content.
var client = sync.OnceValue(func() *http.Client { return newClient(stream.Stall) })

func newClient(stall time.Duration) *http.Client {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 15 * time.Second,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 16,
	}
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return &http.Client{Transport: stream.Transport(transport, stall), CheckRedirect: checkRedirect}
}

// checkRedirect keeps a mirror from sending neb to a file of this machine, which may be a pipe or a device.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme == "file" || len(via) >= 10 {
		return final{fmt.Errorf("redirects to %s, in %d steps", req.URL.Redacted(), len(via))}
	}
	return nil
}

// open requests a file from an offset on. The result is the body, the offset at which it starts (that one,
// or 0), and the size of the whole file in bytes, or -1 if the mirror does not give it.
func (m Mirrors) open(
	ctx context.Context, address string, offset int64,
) (body io.ReadCloser, start, size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, 0, final{err}
	}
	req.Header.Set("User-Agent", "neb")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	c := client()
	if m.stall != 0 {
		c = newClient(m.stall)
	}
	resp, err := c.Do(req)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the caller names the URL, without its password
	}
	if err != nil {
		return nil, 0, 0, err
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return resp.Body, 0, resp.ContentLength, nil
	case code == http.StatusPartialContent:
		found := resp.Header.Get("Content-Range")
		if strings.HasPrefix(found, fmt.Sprintf("bytes %d-", offset)) {
			if size = resp.ContentLength; size >= 0 {
				size += offset
			}
			return resp.Body, offset, size, nil
		}
		err = final{fmt.Errorf("answered with range %q, expected %d-", found, offset)}
	case code == http.StatusNotFound || code == http.StatusGone:
		err = errNotFound
	default:
		err = fmt.Errorf("answered %s", resp.Status)
		if code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout {
			err = final{err}
		}
	}
	resp.Body.Close()
	return nil, 0, 0, err
}

// Redacted returns a URL without its password.
func Redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil { // often because of a character of the password
		if i := strings.LastIndexByte(address, '@'); i >= 0 {
			return "xxxxx" + address[i:]
		}
		return address
	}
	return u.Redacted()
}

// get downloads a small file into memory: from the first of the URLs that has it and for which check
// returns nil. It fails if the file is larger than most bytes.
func (m Mirrors) get(ctx context.Context, urls []string, most int64, check func([]byte) error) ([]byte,
	error) {
	if len(urls) == 0 {
		return nil, errors.New("no mirror is configured: set NEB_MIRROR")
	}
	var data []byte
	err := ask(ctx, urls, func(address string) (bool, error) {
		body, _, _, err := m.open(ctx, address, 0)
		if err != nil {
			return false, err
		}
		defer body.Close()
		data, err = io.ReadAll(io.LimitReader(body, most+1))
		if err == nil && int64(len(data)) > most {
			err = final{fmt.Errorf("larger than %d bytes", most)}
		}
		if err != nil {
			return false, err
		}
		if err := check(data); err != nil {
			return false, final{err}
		}
		return false, nil
	})
	return data, err
}

// rounds is how often each mirror is asked while none of them sends anything new.
const rounds = 3

// ask calls try with each of the URLs in order until it returns nil, and then again with those whose error
// may pass. Progress means that the next call of try has less left to do. The error is a *refusals, the
// cause of ctx, or a *[WriteError].
func ask(ctx context.Context, urls []string, try func(address string) (progress bool, err error)) error {
	last := map[string]error{}
	for round := 1; round <= rounds; round++ {
		for _, address := range urls {
			if errors.As(last[address], &final{}) {
				continue
			}
			progress, err := try(address)
			var local *WriteError
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.As(err, &local):
				return err
			case progress:
				round = 0 // slow is not dead
			}
			last[address] = err
		}
		if !slices.ContainsFunc(urls, func(u string) bool { return !errors.As(last[u], &final{}) }) {
			break
		}
		select {
		case <-time.After(125 * time.Millisecond << round):
		case <-ctx.Done():
			return context.Cause(ctx)
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

// gone reports whether a mirror answered that it does not have the file.
func (r *refusals) gone() bool {
	return slices.ContainsFunc(r.urls, func(u string) bool { return errors.Is(r.last[u], errNotFound) })
}
