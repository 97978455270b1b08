//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const (
	logSize  = 1 << 20         // bytes of lines that wait for the parent
	ownRoom  = 4 << 10         // and for init's own lines, which may say why the enclave ends
	logRetry = time.Second     // between attempts to connect
	logEnd   = 2 * time.Second // for the parent to read the rest, after the end of the application
)

// A journal sends the application's output and init's own lines to a port of the parent, line by line. It
// never waits for the parent: lines that do not fit into its buffer are dropped and counted.
type journal struct {
	dial    func() (int, error) // begins to connect
	console [2]int              // where standard output and error go as well
	done    chan struct{}       // closed when the application's output has ended; nil before it starts

	mu    sync.Mutex
	queue queue
	fd    int // of the connection, or -1
	ready bool
	retry time.Time
}

// log is nil unless the description has a LogPort.
var log *journal

func newJournal(port uint32) *journal {
	return &journal{dial: func() (int, error) { return call(port) }, console: [2]int{1, 2}, fd: -1}
}

// A queue holds lines until they are sent.
type queue struct {
	b    []byte // whole lines; the first one is kept until all of it is sent
	sent int    // bytes of b
	lost int    // lines that did not fit
}

// add adds a line, without its newline. more means that its text goes on in the next one.
func (q *queue) add(mark string, text []byte, more bool) {
	size := len(contract.LogOut+" \n"+"neb lost 18446744073709551615 lines\n") + len(text)
	room := logSize
	if mark == contract.LogInit {
		room += ownRoom
	}
	if len(q.b)+size > room {
		if q.free(); len(q.b)+size > room {
			q.lost++
			return
		}
	}
	q.noteLost()
	if q.b == nil {
		q.b = make([]byte, 0, logSize+ownRoom)
	}
	q.b = append(q.b, mark...)
	if more {
		q.b = append(q.b, '+')
	} else {
		q.b = append(q.b, ' ')
	}
	q.b = append(append(q.b, text...), '\n')
}

// noteLost says how many lines were lost, in their place.
func (q *queue) noteLost() {
	if q.lost > 0 {
		q.b = append(q.b, contract.LogInit+" lost "+strconv.Itoa(q.lost)+" lines\n"...)
		q.lost = 0
	}
}

// rest returns what is to be sent.
func (q *queue) rest() []byte { return q.b[q.sent:] }

// free removes the lines that were sent.
func (q *queue) free() {
	if whole := bytes.LastIndexByte(q.b[:q.sent], '\n') + 1; whole > 0 {
		q.b = q.b[:copy(q.b, q.b[whole:])]
		q.sent -= whole
	}
}

// again goes back to the beginning of a line that was sent in part: the next connection gets it whole.
func (q *queue) again() { q.sent = bytes.LastIndexByte(q.b[:q.sent], '\n') + 1 }

// A stream cuts output into lines.
type stream struct {
	mark string
	part []byte
}

// write adds the lines of b to the queue, and keeps what comes after the last one.
func (s *stream) write(q *queue, b []byte) {
	for len(b) > 0 {
		line, after, ended := bytes.Cut(b, []byte("\n"))
		if room := contract.MaxLogLine - len(s.part); len(line) > room {
			q.add(s.mark, append(s.part, line[:room]...), true)
			s.part, b = s.part[:0], b[room:]
			continue
		}
		s.part = append(s.part, line...)
		if ended {
			q.add(s.mark, s.part, false)
			s.part = s.part[:0]
		}
		b = after
	}
}

// close adds what has no newline at the end of the output.
func (s *stream) close(q *queue) {
	if len(s.part) > 0 {
		q.add(s.mark, s.part, false)
	}
}

// say adds a line of init.
func (j *journal) say(line []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.queue.add(contract.LogInit, line, false)
}

// pipes returns where the application writes its standard output and error, which belong to its user, and the
// other ends.
func (e *enclave) pipes() (app, ours [2]int, err error) {
	for i := range app {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return app, ours, fail("create", "a pipe for the log", err)
		}
		if err := unix.Fchown(p[1], e.account.UID, e.account.GID); err != nil { // to be opened as /dev/stdout
			return app, ours, fail("change the owner of", "a pipe for the log", err)
		}
		ours[i], app[i] = p[0], p[1]
	}
	return app, ours, nil
}

// run copies the application's output to the console and into the queue, and the queue to the parent, until
// the output ends.
func (j *journal) run(from [2]int) {
	defer close(j.done)
	streams := [2]stream{{mark: contract.LogOut}, {mark: contract.LogErr}}
	buf := make([]byte, 64<<10)
	for open := len(from); open > 0; {
		p := []unix.PollFd{{Fd: int32(from[0]), Events: unix.POLLIN},
			{Fd: int32(from[1]), Events: unix.POLLIN},
			j.want()}
		if _, err := unix.Poll(p, int(logRetry/time.Millisecond)); err != nil && err != unix.EINTR {
			return
		}
		for i := range from {
			if p[i].Revents == 0 {
				continue
			}
			n, err := unix.Read(from[i], buf)
			if err == unix.EINTR {
				continue
			}
			if n > 0 {
				writeAll(j.console[i], buf[:n])
			}
			j.mu.Lock()
			if n > 0 {
				streams[i].write(&j.queue, buf[:n])
			} else {
				streams[i].close(&j.queue)
				unix.Close(from[i])
				from[i] = -1 // poll(2) ignores it
				open--
			}
			j.mu.Unlock()
		}
		j.send(p[2].Revents)
	}
}

// writeAll writes to the console. It waits as long as that takes, as the application would.
func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		b = b[n:]
	}
}

// want returns what to wait for on the connection.
func (j *journal) want() unix.PollFd {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := unix.PollFd{Fd: int32(j.fd)} // errors are always reported
	if !j.ready || len(j.queue.rest()) > 0 {
		p.Events = unix.POLLOUT
	}
	return p
}

// send connects if necessary, and sends what the connection takes. events are those of the connection that
// poll(2) reported.
func (j *journal) send(events int16) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fd < 0 {
		if len(j.queue.b) == 0 || time.Now().Before(j.retry) {
			return
		}
		j.retry = time.Now().Add(logRetry)
		var err error
		if j.fd, err = j.dial(); err != nil {
			j.fd = -1
			return
		}
	}
	switch {
	case events&(unix.POLLHUP|unix.POLLERR) != 0:
		j.hangUp()
		return
	case !j.ready && events == 0:
		return
	case !j.ready && connected(j.fd, time.Now().Add(time.Second)) != nil: // this does not wait
		j.hangUp()
		return
	}
	j.ready = true
	for rest := j.queue.rest(); len(rest) > 0; rest = j.queue.rest() {
		n, err := unix.Write(j.fd, rest[:min(len(rest), 64<<10)])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil || n <= 0:
			j.hangUp()
			return
		}
		j.queue.sent += n
	}
	j.queue.free()
}

func (j *journal) hangUp() {
	unix.Close(j.fd)
	j.fd, j.ready = -1, false
	j.queue.again()
}

// drain waits until the application's output has been read.
func (j *journal) drain() {
	if j.done == nil {
		return
	}
	select {
	case <-j.done:
	case <-time.After(logEnd): // a process that cannot be killed still has it
	}
}

// finish sends the rest, and waits until the parent has read it, both for a limited time.
func (j *journal) finish() {
	deadline := time.Now().Add(logEnd)
	for events := int16(0); time.Now().Before(deadline); events = unix.POLLOUT {
		j.send(events)
		j.mu.Lock()
		j.queue.noteLost()
		fd, left := j.fd, len(j.queue.rest())
		j.mu.Unlock()
		switch {
		case fd < 0:
			time.Sleep(retryPause)
		case left > 0 || !j.ready:
			await(fd, unix.POLLOUT, deadline)
		default:
			unix.Shutdown(fd, unix.SHUT_WR)
			await(fd, unix.POLLIN, deadline)
			return
		}
	}
}
