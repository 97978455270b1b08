//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/binary"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/netrule"
	"github.com/nitro-enclaves-bootstrap/neb/internal/seccomp"
)

const (
	maxFrame   = 1<<16 - 1
	frameSpace = 2 + maxFrame
	bufferSize = 4 * frameSpace
	maxBatch   = 64 // frames of the device in a row, so that a flood does not stop the other direction

	// headerSize is the size of struct virtio_net_hdr (linux/virtio_net.h), which the device has before each
	// frame.
	headerSize = 10

	firstRetry, lastRetry = 20 * time.Millisecond, time.Second
	shortWait             = 5 * time.Millisecond
	// quiet is how long nothing must be sent until the last data count as carried.
	quiet = 50 * time.Millisecond
	// The time between lines about refusals, and between notices to the parent.
	refusedEvery, noticeEvery = time.Minute, time.Second
)

// A carrier carries frames between the network device and a vsock connection to the parent, and enforces the
// rules. It is a process with one thread, which blocks in poll only.
type carrier struct {
	tap, control int
	dial         func() (int, error) // begins to connect to the parent
	filter       *netrule.Filter
	began        time.Time
	now          time.Duration // since began

	fd        int // the connection; -1: none
	connected bool
	was       bool // connected before
	retryAt   time.Duration
	pause     time.Duration

	header [headerSize]byte // of the frame that was read last

	out []byte // for the parent
	in  []byte // from the parent: complete frames, and the beginning of one

	ending  bool // carry what is left, and exit
	endAt   time.Duration
	refused refusals
}

// carry is the program of the carrier.
func carry(arguments []string) {
	takeSignals()
	var egress, ingress []string
	for _, a := range arguments {
		if rule, ok := strings.CutPrefix(a, "egress="); ok {
			egress = append(egress, rule)
		} else if rule, ok := strings.CutPrefix(a, "ingress="); ok {
			ingress = append(ingress, rule)
		}
	}
	rules, err := netrule.Parse(egress, ingress)
	if err == nil {
		runtime.LockOSThread() // for no_new_privs, which Install gives to the other threads
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		err = seccomp.Install(carrierCalls, seccomp.Allow, seccomp.Fail(unix.EPERM),
			unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	if err != nil {
		say(fail("network", "restrict its process", err).Error())
		unix.Exit(1)
	}
	c := newCarrier(carrierTAP, carrierControl, rules)
	for c.step() {
	}
	unix.Exit(0)
}

func newCarrier(tap, control int, rules *netrule.Rules) *carrier {
	c := &carrier{tap: tap, control: control, dial: callNetwork, fd: -1, pause: firstRetry, began: time.Now(),
		out: make([]byte, 0, bufferSize), in: make([]byte, 0, bufferSize),
		filter: netrule.NewFilter(rules, contract.NetworkGateway[0], contract.NetworkGateway[1]),
	}
	c.filter.Refused = c.refused.add
	return c
}

// step waits until there is something to do, and does it. It returns false at the end.
func (c *carrier) step() bool {
	c.now = time.Since(c.began)
	if c.fd < 0 && c.now >= c.retryAt {
		c.connect()
	}
	wait := time.Hour
	if c.fd < 0 {
		wait = c.retryAt - c.now
	}
	wait = c.refused.wait(c.now, wait, c.connected)
	if c.ending {
		wait = min(wait, quiet, c.endAt-c.now)
	}
	fds := [...]unix.PollFd{
		{Fd: int32(c.tap)}, {Fd: int32(c.fd), Events: unix.POLLIN},
		{Fd: int32(c.control), Events: unix.POLLIN},
	}
	if len(c.out) == 0 || !c.connected { // frames wait in the device while the parent does not read
		fds[0].Events = unix.POLLIN
	}
	if !c.connected || len(c.out) > 0 {
		fds[1].Events |= unix.POLLOUT
	}
	if c.ending {
		fds[2].Fd = -1
	}
	n, err := poll(fds[:], max(wait, 0))
	c.now = time.Since(c.began)
	if err != nil && err != unix.EINTR {
		return false
	}
	if c.ending && (n == 0 && len(c.out) == 0 || c.now >= c.endAt) {
		return false
	}
	if fds[2].Revents != 0 && !c.ending {
		c.ending, c.endAt = true, c.now+drainLimit
		c.refused.nextLine, c.refused.nextTelling = c.now, c.now
	}
	if fds[1].Revents != 0 {
		c.exchange(fds[1].Revents)
	}
	if fds[0].Revents != 0 {
		c.fromDevice()
	}
	c.tell()
	return true
}

// raw makes a system call that does not wait, for which Go's scheduler need not know: it would start a thread
// of its own for most of them, and the carrier would move half as many bytes.
func raw(call uintptr, fd int, p unsafe.Pointer, n int) (int, error) {
	r, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(p), uintptr(n))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// poll waits at most limit. Go's scheduler knows only of long waits, so that it sleeps too.
func poll(fds []unix.PollFd, limit time.Duration) (int, error) {
	short := unix.NsecToTimespec(int64(min(limit, shortWait)))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
		uintptr(unsafe.Pointer(&short)), 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	if n > 0 || limit <= shortWait {
		return int(n), nil
	}
	long := unix.NsecToTimespec(int64(limit))
	return unix.Ppoll(fds, &long, nil)
}

func vectors(header *[headerSize]byte, frame []byte) [2]unix.Iovec {
	return [2]unix.Iovec{{Base: &header[0], Len: headerSize},
		{Base: unsafe.SliceData(frame), Len: uint64(len(frame))}}
}

// connect begins to connect to the parent.
func (c *carrier) connect() {
	fd, err := c.dial()
	if err != nil {
		c.lost(err)
		return
	}
	c.fd = fd
}

func callNetwork() (int, error) { return call(contract.NetworkPort) }

// lost closes the connection, to try again later.
func (c *carrier) lost(err error) {
	if c.connected {
		warn(fail("network", "the connection to the parent ended, trying again", err))
		c.pause = firstRetry
	}
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	c.fd, c.connected, c.in, c.out = -1, false, c.in[:0], c.out[:0]
	c.retryAt = c.now + c.pause
	c.pause = min(2*c.pause, lastRetry)
}

// exchange reads from and writes to the parent.
func (c *carrier) exchange(events int16) {
	if !c.connected {
		if errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			c.lost(unix.Errno(errno))
			return
		}
		if events&unix.POLLOUT == 0 {
			c.lost(unix.ECONNRESET)
			return
		}
		c.connected, c.pause = true, firstRetry
		c.out = append(c.out[:0], contract.NetworkRequest...)
		if c.was {
			say("network up again")
		}
		c.was = true
		unix.Write(c.control, []byte{1})
	}
	if events&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0 && !c.fromParent() {
		return
	}
	c.flush()
}

// flush writes what waits for the parent.
func (c *carrier) flush() {
	for len(c.out) > 0 && c.connected {
		n, err := raw(unix.SYS_WRITE, c.fd, unsafe.Pointer(&c.out[0]), len(c.out))
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil:
			c.lost(err)
		default:
			c.out = c.out[:copy(c.out, c.out[n:])]
		}
	}
}

// fromParent reads from the parent once, and delivers the complete frames. It returns false if the connection
// ended.
func (c *carrier) fromParent() bool {
	free := c.in[len(c.in):cap(c.in)] // never empty: what is left of the last read is less than a frame
	n, err := raw(unix.SYS_READ, c.fd, unsafe.Pointer(&free[0]), len(free))
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return true
	case err != nil || n == 0:
		c.lost(err)
		return false
	}
	c.in = c.in[:len(c.in)+n]
	rest := c.in
	for {
		frame, after, ok := cutFrame(rest)
		if !ok {
			break
		}
		rest = after
		pass, answer := c.filter.In(frame, c.seconds())
		if pass {
			c.toDevice(frame)
		}
		c.send(answer)
	}
	c.in = c.in[:copy(c.in, rest)]
	return true
}

// toDevice delivers a frame. One that the device rejects is lost, as on a wire.
func (c *carrier) toDevice(frame []byte) {
	header := frameHeader(frame)
	parts := vectors(&header, frame)
	raw(unix.SYS_WRITEV, c.tap, unsafe.Pointer(&parts), len(parts))
}

// frameHeader returns the header for a frame. For TCP and UDP it says that the checksum is still to be
// computed, so that the kernel, which is the receiver, does not check it.
func frameHeader(frame []byte) (h [headerSize]byte) {
	const ether, needsChecksum = 14, 1
	if len(frame) < ether+20 {
		return h
	}
	start, protocol := 0, byte(0)
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		start, protocol = ether+int(frame[ether]&15)*4, frame[ether+9]
	case unix.ETH_P_IPV6:
		start, protocol = ether+40, frame[ether+6]
	}
	offset := 0 // of the checksum
	switch protocol {
	case unix.IPPROTO_TCP:
		offset = 16
	case unix.IPPROTO_UDP:
		offset = 6
	}
	if offset == 0 || start+offset+2 > len(frame) {
		return h
	}
	h[0] = needsChecksum
	binary.NativeEndian.PutUint16(h[6:], uint16(start))
	binary.NativeEndian.PutUint16(h[8:], uint16(offset))
	return h
}

// cutFrame returns the first frame of b, and what follows it. ok is false if b holds no complete one.
func cutFrame(b []byte) (frame, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, b, false
	}
	n := 2 + int(binary.LittleEndian.Uint16(b))
	if len(b) < n {
		return nil, b, false
	}
	return b[2:n], b[n:], true
}

// send adds a frame to what waits for the parent, or drops it if there is no room.
func (c *carrier) send(frame []byte) {
	if len(frame) > 0 && c.connected && len(c.out)+2+len(frame) <= cap(c.out) {
		c.out = binary.LittleEndian.AppendUint16(c.out, uint16(len(frame)))
		c.out = append(c.out, frame...)
	}
}

// fromDevice reads frames until the buffer is full or there is none, and sends those that the rules allow.
func (c *carrier) fromDevice() {
	for range maxBatch {
		if len(c.out)+frameSpace > cap(c.out) {
			break
		}
		at := len(c.out)
		frame := c.out[at+2 : at+frameSpace]
		parts := vectors(&c.header, frame)
		n, err := raw(unix.SYS_READV, c.tap, unsafe.Pointer(&parts), len(parts))
		if err == unix.EINTR {
			continue
		}
		if n -= headerSize; err != nil || n <= 0 {
			break
		}
		pass, answer := c.filter.Out(frame[:n], c.seconds())
		if answer != nil {
			c.toDevice(answer)
		}
		if pass && c.connected {
			binary.LittleEndian.PutUint16(c.out[at:at+2], uint16(n))
			c.out = c.out[:at+2+n]
		}
	}
	c.flush()
}

func (c *carrier) seconds() int64 { return int64(c.now / time.Second) }

// refusals are counted, because a guest can cause them without limit: the console gets a line and the parent
// a notice now and then.
type refusals struct {
	reasons               [8]refused // with a reason, from the first on
	lines                 int        // refusals that no line has reported
	last                  string     // the latest of them
	nextLine, nextTelling time.Duration
}

// refused are the refusals for one reason since the last notice.
type refused struct {
	reason string
	count  int
	last   string
}

func (r *refusals) add(what *netrule.Refusal) {
	for i := range r.reasons {
		if one := &r.reasons[i]; one.reason == what.Reason || one.reason == "" {
			one.reason = what.Reason
			if one.count++; one.count == 1 || r.lines == 0 { // words take memory: for the first one only
				one.last = what.String()
			}
			if r.lines++; r.lines == 1 {
				r.last = what.Reason + ": " + one.last
			}
			return
		}
	}
}

// wait returns how long there is nothing to report, at most limit.
func (r *refusals) wait(now, limit time.Duration, connected bool) time.Duration {
	if r.lines > 0 {
		limit = min(limit, r.nextLine-now)
	}
	for i := range r.reasons {
		if connected && r.reasons[i].count > 0 {
			return min(limit, r.nextTelling-now)
		}
	}
	return limit
}

// tell reports refusals on the console and to the parent, if it is time.
func (c *carrier) tell() {
	r := &c.refused
	if r.lines > 0 && c.now >= r.nextLine {
		line := "network refused " + r.last
		if r.lines > 1 {
			line += ", and " + strconv.Itoa(r.lines-1) + " more"
		}
		say(line)
		r.lines, r.nextLine = 0, c.now+refusedEvery
	}
	if c.now < r.nextTelling || !c.connected {
		return
	}
	for i := range r.reasons {
		if one := &r.reasons[i]; one.count > 0 {
			c.send(notice(one.reason + " " + strconv.Itoa(one.count) + " " + one.last))
			one.count = 0
			r.nextTelling = c.now + noticeEvery
		}
	}
	c.flush()
}

// notice makes a frame that tells the parent a line.
func notice(line string) []byte {
	b := make([]byte, 12, 14+len(line)) // from and to no address: a parent that is not neb drops it
	b[6] = 2
	b = binary.BigEndian.AppendUint16(b, contract.NetworkNotice)
	return append(b, line...)
}
