//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const retryPause = 20 * time.Millisecond

// A heartbeat is the connection that tells the launcher that the enclave is up. The launcher accepts exactly
// one connection, so init retries only until one succeeds.
type heartbeat struct {
	fd int
}

// call starts to connect to a port of the parent, without waiting.
func call(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: contract.ParentCID, Port: port})
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// await waits until fd is ready for events. It fails with ETIMEDOUT at the deadline.
func await(fd int, events int16, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, int(left/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// connected waits until a connection that call began is established.
func connected(fd int, deadline time.Time) error {
	if err := await(fd, unix.POLLOUT, deadline); err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

func (e *enclave) deadline() time.Time { return e.began.Add(e.switches.heartbeat) }

// callParent starts to connect. sendHeartbeat retries and reports errors, because the connection may need
// modules that are not loaded yet.
func (e *enclave) callParent() error {
	e.beat.fd, _ = call(contract.HeartbeatPort)
	return nil
}

// again reports whether a connection that failed with err may succeed later.
func again(err error) bool {
	switch err {
	case unix.ECONNRESET, unix.ECONNREFUSED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENOTCONN, unix.EPIPE:
		return true
	}
	return false
}

// sendHeartbeat waits for the connection, retrying until the deadline, and sends the byte.
func (e *enclave) sendHeartbeat() error {
	deadline := e.deadline()
	for {
		err := error(unix.ECONNREFUSED)
		if e.beat.fd >= 0 {
			if err = connected(e.beat.fd, deadline); err == nil {
				break
			}
			unix.Close(e.beat.fd)
		}
		if !again(err) || time.Until(deadline) <= retryPause {
			f := fail("heartbeat", "", err)
			return f.because(f.cause + "; tried for " + e.switches.heartbeat.String())
		}
		time.Sleep(retryPause)
		if e.beat.fd, err = call(contract.HeartbeatPort); err != nil && !again(err) {
			return fail("heartbeat", "", err)
		}
	}
	n, err := unix.Write(e.beat.fd, []byte{contract.HeartbeatByte})
	if err != nil {
		return fail("heartbeat", "", err)
	}
	if n != 1 {
		return fail("heartbeat", "", errors.New("the byte was not sent"))
	}
	return nil
}

// heartbeatAnswered waits until the parent sends the byte back.
func (e *enclave) heartbeatAnswered() error {
	deadline := e.deadline()
	var b [1]byte
	for {
		n, err := unix.Read(e.beat.fd, b[:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := await(e.beat.fd, unix.POLLIN, deadline); err != nil {
				return fail("heartbeat", "", err).because("the parent accepted the connection to port 9000 " +
					"and did not answer within " + e.switches.heartbeat.String())
			}
		case err != nil:
			return fail("heartbeat", "", err).because(
				"the parent reset the connection to port 9000 instead of answering")
		case n == 0:
			err = errors.New("the parent closed the connection to port 9000 instead of answering")
			return fail("heartbeat", "", err)
		case b[0] != contract.HeartbeatByte:
			err = errors.New("the parent answered 0x" + strconv.FormatUint(uint64(b[0]), 16) +
				" at port 9000, expected 0xb7")
			return fail("heartbeat", "", err)
		default:
			unix.Close(e.beat.fd)
			return nil
		}
	}
}
