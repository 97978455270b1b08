package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEndpoint(t *testing.T) {
	for text, want := range map[string]struct{ local, ok bool }{
		"unix:/tmp/x":       {true, true},
		"exec:cat":          {true, true},
		"exec:a b:c=d":      {true, true},
		"tcp:127.0.0.1:80":  {true, true},
		"tcp:[::1]:80":      {true, true},
		"tcp:localhost:80":  {true, true},
		"tcp:0.0.0.0:80":    {false, true},
		"tcp:example.com:1": {false, true},
		"tcp::80":           {false, false},
		"tcp:127.0.0.1":     {false, false},
		"unix:":             {false, false},
		"exec:":             {false, false},
		"vsock:3:5":         {false, false},
		"":                  {false, false},
	} {
		e, err := ParseEndpoint(text)
		if (err == nil) != want.ok {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && (e.Local() != want.local || e.String() != text) {
			t.Errorf("%q: local %v, written %q", text, e.Local(), e)
		}
	}
	if _, err := (Endpoint{"exec", "cat"}).Listen(); err == nil {
		t.Error("exec listens")
	}
}

// The file of a socket that nobody listens at any more is in nobody's way; one that somebody listens at is,
// and so is any other file.
func TestListenAgain(t *testing.T) {
	e := Endpoint{"unix", filepath.Join(t.TempDir(), "s")}
	first, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("in use: %v", err)
	}
	asking, err := first.Accept() // how the second found out
	if err != nil {
		t.Fatal(err)
	}
	_ = asking.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := asking.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("who only asked keeps the connection: %v", err)
	}
	asking.Close()
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := e.Listen()
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if err := os.WriteFile(e.address, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a file of another kind: %v", err)
	}
	if text, err := os.ReadFile(e.address); string(text) != "mine" {
		t.Errorf("the file holds %q now, %v", text, err)
	}
}

// A command sees the end of its input, and its own end is that of the connection.
func TestExec(t *testing.T) {
	s, err := Endpoint{"exec", "tr a-z A-Z; echo done >&2"}.open(t.Context(), t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(s, "hello")
	s.CloseWrite()
	if b, err := io.ReadAll(s); string(b) != "HELLO" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// A command that is at work when the enclave is through ends by itself, and with the machine at once.
func TestExecEnds(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	s, err := Endpoint{"exec", "cat > /dev/null; sleep 1.5; echo > " + done}.open(t.Context(), t.Context(),
		io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Stat(done); err != nil {
		t.Errorf("a command was not waited for: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if s, err = (Endpoint{"exec", "sleep 100; echo"}).open(ctx, ctx, io.Discard); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, cancel)
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("a command of a machine that is no more was waited for: %v", took)
	}
}

// What a command leaves in the background ends with it.
func TestExecBackground(t *testing.T) {
	s, err := Endpoint{"exec", "sleep 100 & echo $!"}.open(t.Context(), t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(s, &pid); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for end := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(state),
			") Z ") {
			break // whoever adopted it has not looked yet
		}
		if time.Now().After(end) {
			t.Fatal("it is still there")
		}
	}
}

func TestMonitor(t *testing.T) {
	for text, want := range map[string]bool{
		`{"QMP":{}} {"return":{}} {"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}`: true,
		`{"event":"SHUTDOWN","data":{"guest":true}}`:                                              true,
		`{"event":"GUEST_PANICKED"}`:                                                              true,
		`{"event":"RESET","data":{"guest":false}} {"event":"RESUME"}`:                             false,
		`no JSON {"event":"RESET","data":{"guest":true}}`:                                         false,
	} {
		reset := false
		var said bytes.Buffer
		monitor(struct {
			io.Reader
			io.Writer
			io.Closer
		}{strings.NewReader(text), &said, io.NopCloser(nil)}, func() { reset = true })
		if !strings.Contains(said.String(), "qmp_capabilities") {
			t.Errorf("the monitor wrote %q", &said)
		}
		if reset != want {
			t.Errorf("%s: reset %v, want %v", text, reset, want)
		}
	}
}
