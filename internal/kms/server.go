package kms

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
)

// Port is the vsock port of the parent where enclaves look for KMS: that of vsock-proxy in the AWS Nitro
// Enclaves User Guide.
const Port = 8000

// Server is the stand-in. Its fields may not change after the first request.
type Server struct {
	File        string           // keys, in JSON; it is written at the first CreateKey
	Root        *devca.Authority // vouches for recipients' documents, and for the server where it speaks TLS
	Caller      Caller           // who sends the requests
	Credentials aws.Credentials  // the only ones accepted; any if empty
	// Report is told why requests fail, in lines for the user's eyes. Several goroutines call it.
	Report func(line string)

	mu   sync.Mutex    // held while the file of keys is changed
	once sync.Once     // for slot
	slot chan struct{} // one for each request that is being answered
}

// Caller is the principal that sends the requests. The stand-in does not know who has which access key.
type Caller struct {
	ARN                string
	partition, account string
}

var (
	callerARN = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::(\d{12}):(root|(role|user)/[\w+=,.@/-]{1,576})$`)
	keyARN    = regexp.MustCompile(`^arn:aws[a-z-]*:kms:[a-z0-9-]{1,32}:\d{12}:key/` +
		`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// DefaultCaller is the ARN of a caller that nobody chose. The account is one that AWS uses in examples.
const DefaultCaller = "arn:aws:iam::111122223333:root"

// ParseCaller parses the ARN of a role, a user or an account ("…:root").
func ParseCaller(arn string) (Caller, error) {
	m := callerARN.FindStringSubmatch(arn)
	if m == nil {
		return Caller{}, fmt.Errorf("invalid principal %.128q: expected one like %s", arn,
			"arn:aws:iam::111122223333:role/Web")
	}
	return Caller{arn, m[1], m[2]}, nil
}

func (c Caller) root() string { return fmt.Sprintf("arn:%s:iam::%s:root", c.partition, c.account) }

// is reports whether a principal of a policy includes the caller. An account stands for all its principals,
// as if IAM allowed each of them everything.
func (c Caller) is(principal string) bool {
	return principal == "*" || principal == c.ARN || principal == c.account || principal == c.root()
}

// failure is an error with the name that AWS KMS gives it.
type failure struct{ code, message string }

func (f *failure) Error() string { return f.code + ": " + f.message }

func failf(code, format string, args ...any) error {
	return &failure{code, fmt.Sprintf(format, args...)}
}

const (
	validation    = "ValidationException"
	notFound      = "NotFoundException"
	unsupported   = "UnsupportedOperationException"
	limitExceeded = "LimitExceededException"
)

// Limits of requests. An answer needs a few times the memory of its request.
const (
	maxBody     = 256 << 10 // bytes
	maxRequests = 32        // at a time
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.once.Do(func() { s.slot = make(chan struct{}, maxRequests) })
	s.slot <- struct{}{}
	defer func() { <-s.slot }()

	operation, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	answer, err := s.answer(operation, http.MaxBytesReader(w, r.Body, maxBody), r)
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadRequest
		var f *failure
		if !errors.As(err, &f) {
			f, status = &failure{"KMSInternalException", err.Error()}, http.StatusInternalServerError
		}
		s.report("%.40q: %v", operation, f)
		answer = map[string]string{"__type": f.code, "message": f.message}
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", newID())
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) report(format string, args ...any) {
	if s.Report != nil {
		s.Report("kms: " + fmt.Sprintf(format, args...))
	}
}

func (s *Server) answer(operation string, in io.Reader, r *http.Request) (any, error) {
	body, err := io.ReadAll(in)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, failf(validation, "the request is larger than %d bytes", tooLarge.Limit)
	} else if err != nil {
		return nil, failf(validation, "the request: %v", err)
	}
	sig, err := parseSignature(r)
	if err == nil && s.Credentials.HasKeys() {
		err = s.check(sig, r, body, time.Now())
	}
	if err != nil {
		return nil, err
	}
	do, ok := operations[operation]
	if r.Method != http.MethodPost || !ok {
		return nil, failf("UnknownOperationException", "the stand-in does not support the operation %.64q",
			operation)
	}
	c := &call{server: s, action: "kms:" + operation, region: sig.region}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&c.request); err != nil {
		return nil, failf(validation, "the request is not JSON that neb kms knows: %v", err)
	}
	if c.Recipient != nil && do.recipient {
		if c.document, c.key, err = c.Recipient.verify(s.Root.Certificate, time.Now()); err != nil {
			return nil, err
		}
	}
	answer, err := do.run(c)
	if err == nil && c.DryRun {
		return nil, failf("DryRunOperationException", "the request would have succeeded, but DryRun is set")
	}
	return answer, err
}

// Serve answers requests over HTTP and over TLS on a listener, until ctx is done or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s, MaxHeaderBytes: 64 << 10, ErrorLog: log.New(io.Discard, "", 0),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(&listener{l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.Root.Server(hello.ServerName)
		},
	}})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listener accepts connections that speak TLS or not.
type listener struct {
	net.Listener
	config *tls.Config
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, config: l.config}, nil
}

// conn is a connection whose first byte decides whether it is TLS. The server reads before it writes.
type conn struct {
	net.Conn
	config *tls.Config
	once   sync.Once
	inner  net.Conn
	err    error
}

const handshake = 22 // content type of the first TLS record (RFC 8446, 5.1)

func (c *conn) Read(p []byte) (int, error) {
	c.once.Do(func() {
		var first [1]byte
		_, c.err = io.ReadFull(c.Conn, first[:])
		c.inner = &prefixed{c.Conn, first[:]}
		if first[0] == handshake {
			c.inner = tls.Server(c.inner, c.config)
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.inner.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.inner == nil {
		return 0, errors.New("written before the first byte was read")
	}
	return c.inner.Write(p)
}

// prefixed is a connection of which the first bytes were read.
type prefixed struct {
	net.Conn
	first []byte
}

func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
