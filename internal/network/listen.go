//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Listener accepts connections of enclaves.
type Listener interface {
	// Accept waits for a connection, and returns it with the CID of its enclave.
	Accept() (io.ReadWriteCloser, uint32, error)
	Close() error
}

// Stream is a Listener for the connections that l accepts. They do not tell a CID; it is 0.
type Stream struct{ net.Listener }

// Accept implements [Listener].
func (l Stream) Accept() (io.ReadWriteCloser, uint32, error) {
	c, err := l.Listener.Accept()
	return c, 0, err
}

// A VSOCK is a listener of the family vsock, vsock(7).
type VSOCK struct{ *os.File }

// ListenVSOCK listens on a vsock port, for every CID.
func ListenVSOCK(port uint32) (*VSOCK, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w; on EC2, is this a parent instance (modprobe vhost_vsock)?", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock port %d: %w", port, err)
	}
	return &VSOCK{os.NewFile(uintptr(fd), "vsock")}, nil
}

// Accept implements [Listener].
func (l *VSOCK) Accept() (io.ReadWriteCloser, uint32, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	fd, cid := -1, uint32(0)
	var failed error
	err = raw.Read(func(listener uintptr) bool {
		var peer unix.Sockaddr
		fd, peer, failed = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if vm, ok := peer.(*unix.SockaddrVM); ok {
			cid = vm.CID
		}
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, 0, err
	}
	return os.NewFile(uintptr(fd), "vsock connection"), cid, nil
}

// ServeAll serves every enclave that l accepts until ctx is done. report is called when one is rejected.
func (s *Server) ServeAll(ctx context.Context, l Listener, report func(error)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, cid, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil: // such as too many open files
			report(err)
			time.Sleep(time.Second)
			continue
		}
		go func() {
			if err := s.Serve(ctx, cid, conn); err != nil {
				report(err)
			}
		}()
	}
}
