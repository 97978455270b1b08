package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestSignal sends a signal to commands whose output goes into a pipe that nobody empties.
func TestSignal(t *testing.T) {
	dir := t.TempDir()
	layer := Layer(t, File("big", strings.Repeat("x", 1<<20)))
	l := NewLayout(t)
	l.Name(l.Image("amd64", [][]byte{layer}, Plain), "a:1")
	cache := filepath.Join(dir, "cache")
	done(t, "cache", "import", "--cache", cache, l.Archive())
	yaml := write(t, dir, "x.yml", fmt.Sprintf("init: [%q]", "oci:"+cache+":a:1"))
	for _, c := range []struct {
		args   []string
		signal syscall.Signal
	}{
		{[]string{"build", "--arch", "amd64", "-o", "-", yaml}, syscall.SIGTERM},
		{[]string{"build", "--arch", "amd64", "-o", "-", yaml}, syscall.SIGINT},
		{[]string{"cache", "export", "--cache", cache, "--platform", "linux/amd64", "--outfile", "-", "a:1"}, syscall.SIGTERM},
		{[]string{"cache", "export", "--cache", cache, "--platform", "linux/amd64", "--format", "filesystem", "--outfile", "-", "a:1"}, syscall.SIGINT},
	} {
		t.Run(strings.Join(c.args[:2], " ")+" "+c.signal.String(), func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			defer r.Close() // and what is blocked in the pipe ends
			var said bytes.Buffer
			ended := make(chan int, 1)
			go func() { ended <- run(c.args, streams{strings.NewReader(""), w, &said}) }()
			if _, err := r.Read(make([]byte, 1)); err != nil { // it has begun
				t.Fatal(err)
			}
			if err := syscall.Kill(os.Getpid(), c.signal); err != nil {
				t.Fatal(err)
			}
			select {
			case status := <-ended:
				if status != 1 || !strings.Contains(said.String(), "linuxkit: ") {
					t.Errorf("status %d, %s", status, said.String())
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on for 20 s after the signal")
			}
		})
	}
}
