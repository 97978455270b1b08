package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/loopback"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
)

// The ports of the parent, besides those that package peer has for the enclave.
const (
	parentEcho   = 7000
	parentSink   = 7001
	parentDeaf   = 7002
	parentCat    = 7003
	parentNobody = 7004 // goes to a socket that nobody listens on
	parentHalf   = 7005 // accepts and waits
	parentTCP    = 7006 // echoes
)

// running is a neb run with vsock services on both sides.
type running struct {
	t              *testing.T
	dir            string
	tcp            string // where the host reaches the enclave's echo
	cmd            *exec.Cmd
	commands       *bufio.ReadWriter
	stdout, stderr lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A socket is a connection of the host.
type socket interface {
	net.Conn
	CloseWrite() error
}

// serve answers every connection to a socket of the host, and returns its endpoint.
func (r *running) serve(network, address string, serve func(socket)) string {
	if network == "unix" {
		address = filepath.Join(r.dir, address)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(socket))
			}()
		}
	}()
	return network + ":" + l.Addr().String()
}

func startVsock(t *testing.T) *running {
	t.Helper()
	dir := shortDir(t)
	r := &running{t: t, dir: dir}
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	wait := func(socket) { <-forever }
	giveBack := func(c socket) { io.Copy(c, c); c.CloseWrite() }

	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "vsock"}})))
	args := runArgs("--timeout", "20m", "--memory", "1024")
	for name, port := range map[string]int{"echo": peer.Echo, "sink": peer.Sink, "source": peer.Source,
		"deaf": peer.Deaf, "commands": peer.Commands, "nobody": 4711} {
		args = append(args, "--connect", fmt.Sprintf("unix:%s=%d", filepath.Join(dir, name), port))
	}
	r.tcp = loopback.Free(t)
	args = append(args, "--connect", fmt.Sprintf("tcp:%s=%d", r.tcp, peer.Echo))
	for port, endpoint := range map[int]string{
		parentEcho: r.serve("unix", "parent-echo", giveBack),
		parentTCP:  r.serve("tcp", "127.0.0.1:0", giveBack),
		parentSink: r.serve("unix", "parent-sink", func(c socket) {
			if d, err := peer.Digest(c); err == nil {
				fmt.Fprintln(c, d)
			}
		}),
		parentDeaf:   r.serve("unix", "parent-deaf", wait),
		parentHalf:   r.serve("unix", "parent-half", wait),
		parentCat:    "exec:cat",
		parentNobody: "unix:" + filepath.Join(dir, "not-there"),
	} {
		args = append(args, "--listen", fmt.Sprintf("%d=%s", port, endpoint))
	}

	ctx, cancel := context.WithCancel(context.Background())
	r.cmd = exec.CommandContext(ctx, nebPath, append(args, eif)...)
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(os.Interrupt) }
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		r.cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if code := r.cmd.ProcessState.ExitCode(); code != 130 && !t.Failed() {
			t.Errorf("exit status %d after an interrupt, want 130", code)
		}
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout.String(), r.stderr.String())
		}
	})
	for end := time.Now().Add(15 * time.Minute); !strings.Contains(r.stdout.String(),
		"vsock: serving"); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			t.Fatal("neb ended")
		default:
		}
		if time.Now().After(end) {
			t.Fatal("the enclave does not serve")
		}
	}
	c := r.dial("commands")
	r.commands = bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
	return r
}

// dial connects to the enclave, through the socket of a --connect.
func (r *running) dial(name string) *net.UnixConn {
	r.t.Helper()
	c, err := net.Dial("unix", filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// do asks the enclave to do something, which must succeed.
func (r *running) do(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	start := time.Now()
	fmt.Fprintln(r.commands, line)
	r.commands.Flush()
	answer, err := r.commands.ReadString('\n')
	if answer = strings.TrimSpace(answer); answer != "ok" || err != nil {
		t.Fatalf("%s: %s %v", line, answer, err)
	}
	t.Logf("%s: %v", line, time.Since(start).Round(time.Millisecond))
}

// echo sends n bytes through a connection and wants them back.
func echo(c socket, n int64) error {
	want, _ := peer.Digest(peer.Noise(n))
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, peer.Noise(n))
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := peer.Digest(c)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("sent %s, got %s back", want, got)
	}
	return nil
}

// memory is what neb itself holds, in bytes: not the enclave's memory, which it shares with QEMU.
func (r *running) memory(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	var kb int
	fmt.Sscan(rest, &kb)
	return kb << 10
}

// TestVsock is one enclave and everything that connections can do to it and to neb.
func TestVsock(t *testing.T) {
	r := startVsock(t)
	const (
		conns = 1000
		share = 32 << 20 // bytes each way, for each direction of connecting
	)
	nobody := r.dial("nobody") // neb waits for a server, for 30 s

	t.Run("host connects", func(t *testing.T) {
		errs := make(chan error, conns)
		start := time.Now()
		for range conns {
			c := r.dial("echo")
			go func() { errs <- echo(c, share/conns) }()
		}
		for range conns {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d connections, %d bytes each way: %v", conns, share,
			time.Since(start).Round(time.Millisecond))
	})
	t.Run("enclave connects", func(t *testing.T) {
		r.do(t, "echo %d %d %d", parentEcho, conns, share/conns)
	})
	t.Run("long streams", func(t *testing.T) {
		const n = 32 << 20
		r.do(t, "send %d %d", parentSink, n)
		start := time.Now()
		c := r.dial("source")
		binary.Write(c, binary.LittleEndian, uint64(n))
		got, err := peer.Digest(c)
		if want, _ := peer.Digest(peer.Noise(n)); got != want || err != nil {
			t.Fatalf("got %s, %v, want %s", got, err, want)
		}
		t.Logf("enclave to host: %v", time.Since(start).Round(time.Millisecond))
		start = time.Now()
		c = r.dial("sink")
		io.Copy(c, peer.Noise(n))
		c.CloseWrite()
		answer, err := io.ReadAll(c)
		if want, _ := peer.Digest(peer.Noise(n)); strings.TrimSpace(string(answer)) != want || err != nil {
			t.Fatalf("the enclave got %s, %v, want %s", answer, err, want)
		}
		t.Logf("host to enclave: %v", time.Since(start).Round(time.Millisecond))
	})
	t.Run("tcp", func(t *testing.T) {
		r.do(t, "echo %d 3 1000000", parentTCP)
		for range 3 {
			c, err := net.Dial("tcp", r.tcp)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := echo(c.(socket), 1000000); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("command", func(t *testing.T) { r.do(t, "echo %d 3 100000", parentCat) })
	t.Run("refused", func(t *testing.T) {
		r.do(t, "knock 3 77 2")
		r.do(t, "knock 2 77 2")
		r.do(t, "knock 3 %d 2", parentNobody)
		if n, err := nobody.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("read %d bytes from a port where nobody listens, %v", n, err)
		}
		for _, want := range []string{"port 77 of the parent", "on EC2 the parent is CID 3",
			fmt.Sprintf("port %d of the parent", parentNobody), "nothing listened on port",
			"connection refused"} {
			for end := time.Now().Add(vm.Patience); !strings.Contains(r.stderr.String(), want) &&
				time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond) // neb says it when the connection is gone already
			}
			if !strings.Contains(r.stderr.String(), want) {
				t.Errorf("neb did not say %q:\n%s", want, r.stderr.String())
			}
		}
	})

	// From here on the other side behaves badly; what behaves well must not notice.
	wellBehaved := func(t *testing.T) {
		t.Helper()
		if err := echo(r.dial("echo"), 1<<20); err != nil {
			t.Errorf("a connection of the host: %v", err)
		}
		r.do(t, "echo %d 2 1000000", parentEcho)
	}
	t.Run("flood", func(t *testing.T) {
		r.do(t, "knock 3 77 2000")
		r.do(t, "churn %d 1000", parentEcho)
		wellBehaved(t)
	})
	t.Run("host that never reads", func(t *testing.T) {
		for range 5 {
			r.do(t, "stuff %d 8000000", parentDeaf)
		}
		wellBehaved(t)
	})
	t.Run("enclave that never reads", func(t *testing.T) {
		c := r.dial("deaf")
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := io.Copy(c, peer.Noise(64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("64 MiB went to somebody who does not read: %v", err)
		}
		wellBehaved(t)
	})
	t.Run("half-open", func(t *testing.T) {
		r.do(t, "halfopen %d %d", parentHalf, conns)
		wellBehaved(t)
		if held := r.memory(t); held > 64<<20 {
			t.Errorf("neb holds %d bytes with %d connections open", held, conns)
		} else {
			t.Logf("neb holds %d bytes with %d connections open", held, conns)
		}
	})
}

// TestLastWords: what an application sent right before its end arrives whole, at every kind of endpoint, and
// at a reader who takes his time.
func TestLastWords(t *testing.T) {
	const n = 4 << 20
	want, _ := peer.Digest(peer.Noise(n))
	dir := shortDir(t)
	r := &running{t: t, dir: dir}
	got := make(chan string, 2)
	slowly := func(c socket) {
		time.Sleep(time.Second)
		d, err := peer.Digest(c)
		got <- fmt.Sprint(d, " ", err)
	}
	file := filepath.Join(dir, "file")
	eif, _ := pack(t, ociLayout(t,
		guestImage(t, v1.Config{Cmd: []string{"/guest", "leave", fmt.Sprint(n), "7000", "7001", "7002"}})))
	result := boot(t, eif, "--listen", "7000="+r.serve("unix", "parent", slowly), "--listen",
		"7001="+r.serve("tcp", "127.0.0.1:0", slowly),
		"--listen", "7002=exec:sleep 1; cat > "+file)
	if result.code != 0 {
		t.Fatalf("exit status %d\nstdout:\n%s\nstderr:\n%s", result.code, result.stdout, result.stderr)
	}
	for range 2 {
		select {
		case d := <-got:
			if d != want+" <nil>" {
				t.Errorf("a socket got %s, want %s", d, want)
			}
		case <-time.After(vm.Patience):
			t.Fatal("a socket has no end")
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d, err := peer.Digest(f); d != want || err != nil {
		t.Errorf("the command got %s, %v, want %s", d, err, want)
	}
}

// TestRebootEnds: an enclave that reboots has ended.
func TestRebootEnds(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "reboot"}})),
		"--cap-add", "SYS_BOOT")
	if r := boot(t, eif); r.code != 126 || !strings.Contains(r.stderr, "without reporting the status") {
		t.Fatalf("exit status %d, want 126\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
	}
}
