//go:build linux

package cli

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/timeline"
)

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		ending timeline.Ending
		forced int
		status int
		want   string // in the error
	}{
		{timeline.Ending{Result: timeline.Exited}, 0, 0, ""},
		{timeline.Ending{Result: timeline.Exited, Status: 7}, 0, 7, ""},
		{timeline.Ending{Result: timeline.Killed, Signal: "SIGKILL"}, 0, 137, ""},
		{timeline.Ending{Result: timeline.Killed, Signal: "SIGNEW"}, 0, 128, ""},
		{timeline.Ending{Result: timeline.NoStatus}, 0, 126,
			"without reporting the status of its application"},
		{timeline.Ending{Result: timeline.NoStatus, Reason: "exec /x: no such file"}, 0, 126,
			": exec /x: no such file"},
		{timeline.Ending{Result: timeline.Timeout}, exitTimeout, 124, ""},
		{timeline.Ending{Result: timeline.Stopped}, 130, 130, ""},
	} {
		status, err := exitStatus(c.ending, c.forced)
		if status != c.status || (err == nil) != (c.want == "") || err != nil &&
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: status %d (%v), expected %d and %q", c.ending, status, err, c.status, c.want)
		}
	}
}

func TestInterrupted(t *testing.T) {
	for s, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143,
		syscall.SIGHUP: 129} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(signalError{s})
		if got := interrupted(ctx); got != want {
			t.Errorf("%v: status %d, want %d", s, got, want)
		}
	}
}

func TestRunUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no EIF":    {nil, "an EIF is required"},
		"two EIFs":  {[]string{"a", "--eif-path", "b"}, "--eif-path cannot be combined with"},
		"no port":   {[]string{"a", "--listen", "unix:/x"}, "PORT=ENDPOINT"},
		"bad port":  {[]string{"a", "--listen", "x=unix:/x"}, "expected a number"},
		"high port": {[]string{"a", "--listen", "2147483648=exec:cat"}, "at most 2147483647"},
		"port twice": {[]string{"a", "--listen", "5=exec:cat", "--listen", "5=exec:cat"},
			"given twice"},
		"unknown endpoint": {[]string{"a", "--listen", "5=udp:x"}, "unix:PATH"},
		"remote":           {[]string{"a", "--listen", "5=tcp:192.0.2.1:80"}, "--remote"},
		"connect a name":   {[]string{"a", "--connect", "tcp:example.com:80=5"}, "--remote"},
		"connect, no port": {[]string{"a", "--connect", "tcp:127.0.0.1:80"}, "ENDPOINT=PORT"},
		"connect exec":     {[]string{"a", "--connect", "exec:cat=5"}, "can start a command"},
		"parent's CID":     {[]string{"a", "--enclave-cid", "3"}, "3 the parent"},
		"no processor":     {[]string{"a", "--cpu-count", "0"}, "at least 1"},
		"memory":           {[]string{"a", "--memory", "-1"}, "MiB"},
		"much memory":      {[]string{"a", "--memory", "17592186044416"}, "at most 1048576"},
		"accelerator":      {[]string{"a", "--accel", "xen"}, "auto, kvm or tcg"},
		"KMS":              {[]string{"a", "--kms-port", "9000"}, "need --kms"},
		"unknown flag":     {[]string{"a", "--enclave"}, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			code := Main(append([]string{"run"}, c.args...), &out, &stderr)
			if code != 2 || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("exit status %d, want 2, and %q in: %s", code, c.says, stderr.String())
			}
		})
	}
}
