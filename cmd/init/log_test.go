//go:build linux && amd64

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

func TestStream(t *testing.T) {
	long := strings.Repeat("x", contract.MaxLogLine)
	for _, c := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\n", "b\nc\n"}, []string{"out a", "out b", "out c"}},
		{"in pieces", []string{"a", "b", "\nc", "\n"}, []string{"out ab", "out c"}},
		{"empty ones", []string{"\n\n"}, []string{"out ", "out "}},
		{"not ended", []string{"a\nb"}, []string{"out a", "out b"}},
		{"any byte", []string{"\x00\xff\r\n"}, []string{"out \x00\xff\r"}},
		{"the longest", []string{long + "\n"}, []string{"out " + long}},
		{"too long", []string{long, "y", "\nz\n"}, []string{"out+" + long, "out y", "out z"}},
		{"far too long", []string{long + long + "y\n"}, []string{"out+" + long, "out+" + long, "out y"}},
	} {
		var q queue
		s := stream{mark: contract.LogOut}
		for _, w := range c.writes {
			s.write(&q, []byte(w))
		}
		s.close(&q)
		if got, want := string(q.rest()), strings.Join(c.want, "\n")+"\n"; got != want {
			t.Errorf("%s: %.80q, want %.80q", c.name, got, want)
		}
	}
}

// TestQueue fills a queue, takes from it in pieces of every size, and starts again in the middle of a line.
func TestQueue(t *testing.T) {
	line := []byte(strings.Repeat("x", 995)) // 1,000 bytes with its mark and end
	const fit = (logSize - 37) / 1000
	for _, piece := range []int{1, 7, 999, 1000, 1001, 65536, logSize} {
		var q queue
		for range fit + 50 {
			q.add(contract.LogErr, line, false)
		}
		if q.lost != 50 || len(q.rest()) != fit*1000 {
			t.Fatalf("%d bytes and %d lost lines, want %d and 50", len(q.rest()), q.lost, fit*1000)
		}
		q.sent = min(piece, len(q.b))
		q.sent = bytes.LastIndexByte(q.b[:q.sent], '\n') + 1 // as again does
		q.sent += min(1, len(q.rest()))
		q.again()
		if len(q.rest())%1000 != 0 {
			t.Errorf("piece of %d: %d bytes left, want whole lines", piece, len(q.rest()))
		}
		q.sent = len(q.b)
		q.add(contract.LogErr, line, false)
		if got := string(q.rest()); got != "neb lost 50 lines\nerr "+string(line)+"\n" {
			t.Errorf("piece of %d: %.60q after the lost lines", piece, got)
		}
		if cap(q.b) != logSize+ownRoom {
			t.Errorf("the buffer has %d bytes, want %d", cap(q.b), logSize+ownRoom)
		}
	}
}

// reader stands in for the parent: it accepts connections of a journal, one after the other.
type reader struct {
	j       *journal
	conns   chan int
	out     *os.File // the application's standard output
	err     *os.File
	refused int // connections to refuse first
}

func newReader(t *testing.T, refused int) *reader {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	r := &reader{conns: make(chan int, 100), refused: refused}
	r.j = &journal{fd: -1, console: [2]int{int(null.Fd()), int(null.Fd())}, done: make(chan struct{}),
		dial: func() (int, error) {
			if r.refused > 0 {
				r.refused--
				return -1, unix.ECONNRESET
			}
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			unix.SetNonblock(p[0], true)
			r.conns <- p[1]
			return p[0], nil
		}}
	var from [2]int
	for i, f := range []**os.File{&r.out, &r.err} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		from[i], *f = p[0], os.NewFile(uintptr(p[1]), "application")
	}
	go r.j.run(from)
	return r
}

// end ends the application's output and the journal.
func (r *reader) end() {
	r.out.Close()
	r.err.Close()
	r.j.drain()
	r.j.say([]byte("exit status=0"))
	r.j.finish()
}

// count returns the sum of lines received and of those counted as lost, and the last line.
func count(t *testing.T, text string) (n int, last string) {
	t.Helper()
	for line := range strings.Lines(text) {
		last = strings.TrimSuffix(line, "\n")
		var lost int
		if k, _ := fmt.Sscanf(line, "neb lost %d lines", &lost); k == 1 {
			n += lost
		} else if strings.HasPrefix(line, "out ") {
			n++
			if len(line) != 104 {
				t.Errorf("torn line: %q", line)
			}
		}
	}
	return n, last
}

// TestReaders has an application write 4 MiB to readers of all kinds. It must never wait for them: each write
// returns before anything is read, by readers that begin only after the last one.
func TestReaders(t *testing.T) {
	const lines = 40_000
	write := func(r *reader) {
		for i := range lines {
			if _, err := fmt.Fprintf(r.out, "%099d\n", i); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("late", func(t *testing.T) {
		r := newReader(t, 0)
		write(r)
		var got []byte
		read := make(chan struct{})
		go func() {
			defer close(read)
			f := os.NewFile(uintptr(<-r.conns), "parent")
			defer f.Close()
			got, _ = io.ReadAll(f)
		}()
		r.end()
		<-read
		if n, last := count(t, string(got)); n != lines || last != "neb exit status=0" {
			t.Errorf("%d lines, received and lost, and the last one %q; want %d", n, last, lines)
		}
		if len(got) < logSize*9/10 {
			t.Errorf("%d bytes were kept, want about %d", len(got), logSize)
		}
	})
	t.Run("never", func(t *testing.T) {
		r := newReader(t, 0)
		write(r)
		r.end() // returns
	})
	t.Run("one byte at a time", func(t *testing.T) {
		r := newReader(t, 0)
		go func() {
			fd := <-r.conns
			for b := make([]byte, 1); ; time.Sleep(time.Millisecond) {
				if n, err := unix.Read(fd, b); n != 1 || err != nil {
					return
				}
			}
		}()
		write(r)
		r.end()
	})
	t.Run("refused, and reconnected in the middle of lines", func(t *testing.T) {
		r := newReader(t, 1)
		pieces := make(chan string)
		go func() {
			defer close(pieces)
			for range 2 {
				fd, b := <-r.conns, make([]byte, 150)
				n, err := io.ReadFull(readFunc(func(b []byte) (int, error) { return unix.Read(fd, b) }), b)
				if err != nil {
					t.Error(err)
				}
				pieces <- string(b[:n])
				unix.Close(fd)
			}
			f := os.NewFile(uintptr(<-r.conns), "parent")
			defer f.Close()
			b, _ := io.ReadAll(f)
			pieces <- string(b)
		}()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				fmt.Fprintf(r.out, "%099d\n", i)
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		all := []string{<-pieces, <-pieces}
		close(stop)
		<-stopped
		r.end()
		for _, p := range append(all, <-pieces) {
			if !strings.HasPrefix(p, "out 000") && p != "neb exit status=0\n" {
				t.Errorf("a connection begins with %.20q, not with a line", p)
			}
		}
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) {
	n, err := f(b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// TestLogPort boots applications whose output goes to a port of the parent.
func TestLogPort(t *testing.T) {
	const port = 5000
	for _, arch := range []string{eif.X86_64, eif.AArch64} {
		t.Run(arch, func(t *testing.T) {
			got := make(chan string, 8)
			words := []string{"say=one", "err=two", "write=/dev/stdout", "fill=300", "exit=7"}
			s := scene{
				arch: arch,
				second: described(t, contract.Description{Entrypoint: []string{"/probe"}, Cmd: words,
					User:    "1000",
					LogPort: port, Complete: true}, program("probe", probeProgram(t, arch))),
				parent: map[uint32]vsock.Handler{port: func(_ context.Context, c *vsock.Conn) {
					if c.Accept() != nil {
						return
					}
					b, err := io.ReadAll(c)
					if err != nil && !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					got <- string(b)
				}},
				want: []string{`^neb: exit status=7$`},
			}
			s.run(t)
			select {
			case text := <-got:
				lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
				for _, want := range []string{`out probe: say=one: "one"`, "err two", "out written to /dev/stdout",
					"out " + fmt.Sprintf("%099d", 299)} {
					if !slices.Contains(lines, want) {
						t.Errorf("no line %q", want)
					}
				}
				if last := lines[len(lines)-1]; last != "neb exit status="+strconv.Itoa(7) {
					t.Errorf("the last line is %q", last)
				}
				if strings.Contains(text, "neb lost") {
					t.Error("lines were lost though the parent read them")
				}
			default:
				t.Error("nothing was sent")
			}
		})
	}
}
