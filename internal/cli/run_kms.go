//go:build linux

package cli

import (
	"context"
	"net"

	"github.com/nitro-enclaves-bootstrap/neb/internal/kms"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// addKMS serves a stand-in for AWS KMS on a port of the parent. The caller has the role of the instance, as
// applications in an enclave have on EC2.
func (o *runOptions) addKMS(s streams, parent *services) error {
	if !o.kms {
		if o.kmsKeys != "" || o.kmsPort != kms.Port {
			return usagef("--kms-keys and --kms-port need --kms")
		}
		return nil
	}
	principal := kms.DefaultCaller
	if o.parent.role != "" {
		principal = o.parent.role
	}
	caller, err := kms.ParseCaller(principal)
	if err != nil {
		return usagef("--role-arn: %v", err)
	}
	file, err := kmsFile(o.kmsKeys)
	if err != nil {
		return &ExitError{Code: exitMachine, Err: err}
	}
	server := &kms.Server{
		File: file, Root: o.root, Caller: caller, Report: func(line string) { complain(s, "%s", line) },
	}
	if _, err := server.Keys(); err != nil {
		return &ExitError{Code: exitMachine, Err: err}
	}
	ctx, cancel := context.WithCancel(context.Background())
	parent.closers = append(parent.closers, cancel)
	accepted := &handed{make(chan net.Conn), ctx}
	go server.Serve(ctx, accepted)
	return parent.serve(o.kmsPort, "--kms", func(ctx context.Context, c *vsock.Conn) {
		if c.Accept() != nil {
			return
		}
		select {
		case accepted.conns <- c:
			<-c.Context().Done()
		case <-ctx.Done():
		}
	})
}

// handed is a listener for connections that were accepted elsewhere.
type handed struct {
	conns chan net.Conn
	ctx   context.Context
}

func (l *handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (*handed) Close() error { return nil }

func (*handed) Addr() net.Addr { return vsock.Addr{CID: vsock.ParentCID} }
