//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/netrule"
)

// A line is a carrier between a device and parents, which the test plays.
type line struct {
	*carrier
	t       *testing.T
	device  int // the other end of the device: one frame a packet
	control int
	parents []int // the other ends of the connections
	absent  bool  // the parent accepts none
}

func pair(t *testing.T, kind int) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	return fds[0], fds[1]
}

func newLine(t *testing.T, egress ...string) *line {
	t.Helper()
	rules, err := netrule.Parse(egress, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t}
	var tap, control int
	l.device, tap = pair(t, unix.SOCK_SEQPACKET)
	l.control, control = pair(t, unix.SOCK_STREAM)
	l.carrier = newCarrier(tap, control, rules)
	l.dial = func() (int, error) {
		if l.absent {
			return -1, unix.ECONNRESET
		}
		parent, fd := pair(t, unix.SOCK_STREAM)
		l.parents = append(l.parents, parent)
		return fd, nil
	}
	return l
}

// steps makes steps until done returns true.
func (l *line) steps(what string, done func() bool) {
	l.t.Helper()
	for n := 0; !done(); n++ {
		if n == 100_000 || !l.step() {
			l.t.Fatalf("%s: not after %d steps", what, n)
		}
		// The next step must not wait: something arrives at the latest now.
		unix.Write(l.device, nil)
	}
}

// put sends a frame from the device, with its header.
func (l *line) put(frame string) error {
	_, err := unix.Write(l.device, []byte(strings.Repeat("\x00", headerSize)+frame))
	return err
}

func (l *line) parent() int { return l.parents[len(l.parents)-1] }

// receive returns what a descriptor has received until it ends in suffix.
func (l *line) receive(fd int, suffix string) string {
	l.t.Helper()
	var all []byte
	l.steps("receive "+suffix, func() bool {
		b := make([]byte, 1<<17)
		if n, err := unix.Read(fd, b); err == nil {
			all = append(all, b[:n]...)
		}
		return bytes.HasSuffix(all, []byte(suffix))
	})
	return string(all)
}

// datagram is a frame with UDP to an address, 192.0.2.x.
func datagram(x byte, content string) string {
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 127, 2, 192, 0, 2, x}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(content)))
	udp := binary.BigEndian.AppendUint16([]byte{0, 1, 0, 9}, uint16(8+len(content)))
	return "\x02AAAAA\x02BBBBB\x08\x00" + string(ip) + string(udp) + "\x00\x00" + content
}

// valid is the header of a frame with UDP for the device, and bare that of others: the checksum is at byte
// 34+6.
const valid, bare = "\x01\x00\x00\x00\x00\x00\x22\x00\x06\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func framed(f string) string {
	return string(binary.LittleEndian.AppendUint16(nil, uint16(len(f)))) + f
}

func TestCarrier(t *testing.T) {
	l := newLine(t)
	l.steps("connect", func() bool { return l.connected })
	if got := l.receive(l.parent(), "\r\n\r\n"); got != contract.NetworkRequest {
		t.Errorf("%q", got)
	}
	l.put(datagram(1, "out"))
	if got, want := l.receive(l.parent(), "out"), framed(datagram(1, "out")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// Two frames in three pieces, one of them of another protocol.
	two := framed("0123456789ab\x88\xccx") + framed(datagram(2, "in"))
	for _, piece := range []string{two[:1], two[1:20], two[20:]} {
		unix.Write(l.parent(), []byte(piece))
		l.step()
	}
	if got := l.receive(l.device, "in"); got != valid+datagram(2, "in") {
		t.Errorf("%q", got)
	}
	// The parent ends in the middle of a frame, and comes back.
	unix.Write(l.parent(), []byte("\xff\xffabc"))
	l.absent = true
	unix.Close(l.parent())
	l.steps("disconnect", func() bool { return !l.connected })
	l.put(datagram(1, "lost"))
	l.absent = false
	l.steps("reconnect", func() bool { return l.connected })
	l.receive(l.parent(), "\r\n\r\n")
	unix.Write(l.parent(), []byte(framed(datagram(3, "again"))))
	if got := l.receive(l.device, "again"); got != valid+datagram(3, "again") {
		t.Errorf("%q", got)
	}
}

// A parent that does not read stops what the device sends, not what the parent sends.
func TestParentDoesNotRead(t *testing.T) {
	l := newLine(t)
	l.steps("connect", func() bool { return l.connected })
	frame := datagram(1, strings.Repeat("x", 60_000))
	l.steps("fill", func() bool {
		for l.put(frame) == nil {
		}
		return len(l.out) > 0
	})
	for range 100 {
		unix.Write(l.parent(), []byte(framed(datagram(2, "in"))))
		l.step()
	}
	if len(l.out) > bufferSize || len(l.in) > bufferSize {
		t.Errorf("%d and %d bytes wait, the limit is %d", len(l.out), len(l.in), bufferSize)
	}
	if got := l.receive(l.device, "in"); !strings.HasSuffix(got, datagram(2, "in")) {
		t.Errorf("%q", got)
	}
}

// Every length of a frame is possible, and garbage is dropped.
func TestGarbage(t *testing.T) {
	l := newLine(t, "192.0.2.1")
	l.steps("connect", func() bool { return l.connected })
	for _, size := range []int{0, 1, 13, 14, 65535} {
		garbage := framed(strings.Repeat("\xff", size))
		l.steps("garbage", func() bool {
			n, err := unix.Write(l.parent(), []byte(garbage))
			garbage = garbage[max(n, 0):]
			return garbage == "" || err != nil && err != unix.EAGAIN
		})
	}
	unix.Write(l.parent(), []byte(framed("0123456789ab\x08\x06the end")))
	if got := l.receive(l.device, "the end"); got != bare+"0123456789ab\x08\x06the end" {
		t.Errorf("%q", got)
	}
}

// Refusals are answered, and the parent is told of them in bounded notices.
func TestRefusals(t *testing.T) {
	l := newLine(t, "192.0.2.1")
	l.steps("connect", func() bool { return l.connected })
	l.receive(l.parent(), "\r\n\r\n")
	l.put(datagram(2, "no"))
	if got := l.receive(l.parent(), "egress 1 udp 192.0.2.2:9"); !strings.Contains(got, "\x88\xb5egress 1") {
		t.Errorf("%q", got)
	}
	b := make([]byte, 1000)
	if n, err := unix.Read(l.device, b); err != nil || b[24+9] != 1 || b[24+20] != 3 || b[24+21] != 13 {
		t.Errorf("%x (%v), want ICMP 3, 13", b[:max(n, 0)], err)
	}
	for range 10_000 {
		l.put(datagram(3, "no"))
		l.step()
		unix.Read(l.device, b)
	}
	l.put(datagram(1, "yes"))
	if got := l.receive(l.parent(), "yes"); strings.Count(got, "\x88\xb5") >
		int(time.Since(l.began)/noticeEvery)+1 {
		t.Errorf("%d notices in %v", strings.Count(got, "\x88\xb5"), time.Since(l.began))
	}
}

// At the end, what the device holds is still carried.
func TestCarrierEnd(t *testing.T) {
	l := newLine(t)
	l.steps("connect", func() bool { return l.connected })
	l.receive(l.parent(), "\r\n\r\n")
	unix.Shutdown(l.control, unix.SHUT_WR)
	l.put(datagram(1, "last"))
	for l.step() {
	}
	b := make([]byte, 1000)
	if n, err := unix.Read(l.parent(), b); err != nil || string(b[:n]) != framed(datagram(1, "last")) {
		t.Errorf("%q %v", b[:max(n, 0)], err)
	}
}

// FuzzCutFrame checks that frames are cut where their lengths say, whatever the pieces are.
func FuzzCutFrame(f *testing.F) {
	f.Add([]byte("\x03\x00abc\x00\x00\x05"))
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		taken := 0
		for rest := b; ; {
			frame, after, ok := cutFrame(rest)
			if !ok {
				if len(rest) >= 2 && len(rest) >= 2+int(binary.LittleEndian.Uint16(rest)) {
					t.Fatalf("a frame was left in %x", rest)
				}
				break
			}
			taken += 2 + len(frame)
			if len(after) != len(b)-taken {
				t.Fatalf("%d bytes left of %d after %d", len(after), len(b), taken)
			}
			rest = after
		}
	})
}
