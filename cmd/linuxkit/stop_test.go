package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestSignal sends a signal while the output goes into a pipe that nobody reads. If the signal is lost, go
// test times out.
func TestSignal(t *testing.T) {
	dir := t.TempDir()
	layer := Layer(t, File("big", strings.Repeat("x", 1<<20)))
	yaml := write(t, dir, "x.yml", fmt.Sprintf("init: [%q]", layoutOf(t, layer)))
	for _, c := range []struct {
		args   []string
		signal syscall.Signal
	}{
		{[]string{"build", "--arch", "amd64", "-o", "-", yaml}, syscall.SIGTERM},
		{[]string{"build", "--arch", "amd64", "-o", "-", yaml}, syscall.SIGINT},
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
			if status := <-ended; status != 1 || !strings.Contains(said.String(), "linuxkit: ") {
				t.Errorf("status %d, %s", status, said.String())
			}
		})
	}
}
