package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
)

// play lets w see a run: the lines of the console, one every 100 ms.
func play(w *watcher, lines ...string) {
	w.event(machine.Event{Kind: machine.PowerOn})
	for i, text := range lines {
		since := time.Duration(i+1) * 100 * time.Millisecond
		if text == "<heartbeat>" {
			w.event(machine.Event{Kind: machine.Heartbeat, Since: since})
			continue
		}
		w.event(machine.Event{Kind: machine.Line, Text: text, Since: since})
	}
	w.event(machine.Event{Kind: machine.Ended, Since: time.Duration(len(lines)+1) * 100 * time.Millisecond})
}

func TestRunEnd(t *testing.T) {
	start := []string{"[    0.000000] Linux version 6.12", "[    0.100000] Run /init as init process", "<heartbeat>"}
	for name, c := range map[string]struct {
		lines  []string
		forced int
		vsock  *ending
		code   int
		says   string
	}{
		"success":                {lines: []string{"hello", "neb: exit status=0"}},
		"status":                 {lines: []string{"neb: exit status=7"}, code: 7},
		"signal":                 {lines: []string{"neb: exit signal=SIGKILL"}, code: 137},
		"vsock comes first":      {lines: []string{"neb: exit status=7"}, vsock: &ending{status: 3}, code: 3},
		"the last line counts":   {lines: []string{"neb: exit status=1", "neb: exit status=2"}, code: 2},
		"no newline before":      {lines: []string{"100 %neb: exit status=7"}, code: 7},
		"no newline, a signal":   {lines: []string{"neb: xneb: exit signal=SIGTERM"}, code: 126, says: "xneb"},
		"an application's words": {lines: []string{"neb: exit status=0 is what I want"}, code: 126, says: "what I want"},
		"words of the kernel":    {lines: []string{"[    0.200000] neb: exit status=0"}, code: 126, says: "without a status"},
		"impossible status":      {lines: []string{"neb: exit status=256"}, code: 126, says: "exit status=256"},
		"init failed":            {lines: []string{"neb: exec /x: no such file"}, code: 126, says: "exec /x: no such file"},
		"panic":                  {lines: []string{"[    0.200000] Kernel panic - not syncing: VFS"}, code: 126, says: "Kernel panic"},
		"timeout":                {lines: []string{"neb: exit status=0"}, forced: 124, code: 124},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := &watcher{s: streams{out: &out, err: io.Discard}, asJSON: true, reported: c.vsock}
			play(w, append(start[:3:3], c.lines...)...)
			err := w.end(c.forced)
			var exit *ExitError
			code := 0
			if errors.As(err, &exit) {
				code = exit.Code
			}
			if code != c.code {
				t.Errorf("exit status %d, want %d (%v)", code, c.code, err)
			}
			if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("the error is %v, want one with %q", err, c.says)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			var last runEvent
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Event != markEnd || last.Status == nil || *last.Status != c.code {
				t.Errorf("last event %s", lines[len(lines)-1])
			}
		})
	}
}

func TestRunEvents(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{s: streams{out: &out, err: io.Discard}, asJSON: true}
	play(w, "[    0.100000] Linux version", "noise of the firmware", "[    0.130000] Unpacking initramfs...", "[    0.140000] Freeing initrd memory: 1K", "[    0.200000] Run /init as init process",
		"[    0.210000] nsm: loaded", "<heartbeat>", "hello", "again", "neb: exit status=0")
	w.end(0)
	var names, phases []string
	for d := json.NewDecoder(&out); d.More(); {
		var e runEvent
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Event == "phase" {
			phases = append(phases, fmt.Sprintf("%s %.1f+%.1f %v", *e.Text, e.Time, *e.Duration, e.Part))
		} else if e.Event != string(machine.Line) {
			names = append(names, e.Event)
		}
		if e.Event == markKernel && e.Time != 0 {
			t.Errorf("the kernel's clock started at %v, want 0", e.Time)
		}
		if e.Kernel != nil && strings.Contains(*e.Text, "Unpacking") && *e.Kernel != 0.13 {
			t.Errorf("the kernel's own time is %v, want 0.13", *e.Kernel)
		}
	}
	if got := strings.Join(names, " "); got != "power-on kernel init heartbeat application power-off end" {
		t.Errorf("events: %s", got)
	}
	want := []string{
		"QEMU, firmware, kernel up to its console 0.0+0.0 false",
		"kernel 0.0+0.5 false",
		"early setup 0.1+0.2 true",
		"file systems 0.3+0.2 true",
		"unpacking of the ramdisks, beside the above 0.3+0.1 true",
		"init, to the heartbeat 0.5+0.2 false",
		"start of init 0.5+0.1 true",
		"driver of the secure module, call to the parent 0.6+0.1 true",
		"init, to the application's first output 0.7+0.1 false",
		"application 0.8+0.3 false",
	}
	if !slices.Equal(phases, want) {
		t.Errorf("phases:\n%s\nwant:\n%s", strings.Join(phases, "\n"), strings.Join(want, "\n"))
	}
}

func TestPlot(t *testing.T) {
	rows := map[string]int{"whole": 8, "silent": 2, "nothing": 0}
	t.Run("a long life", func(t *testing.T) {
		w := &watcher{s: streams{out: io.Discard, err: io.Discard}}
		for _, m := range []mark{{markKernel, time.Second}, {markInit, 2 * time.Second}, {"heartbeat", 3 * time.Second}, {markApplication, 4 * time.Second}, {string(machine.Ended), time.Hour}} {
			w.mark(m.name, m.since)
		}
		svg := string(w.plot("server"))
		// The start has four fifths of the width of the bars.
		if !strings.Contains(svg, `x="718.0"`) || !strings.Contains(svg, ">3596.000 s<") {
			t.Errorf("want the application's bar at 350 + 460 * 4/5, and how long it ran:\n%s", svg)
		}
	})
	for name, lines := range map[string][]string{
		"whole":   {"[    0.000000] Linux version", "[    0.050000] Memory: 1K", "[    0.200000] Run /init as init process", "<heartbeat>", "hello <&>", "neb: exit status=0"},
		"silent":  {"<heartbeat>"},
		"nothing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := &watcher{s: streams{out: io.Discard, err: io.Discard}}
			play(w, lines...)
			svg := w.plot("a <title> & more")
			for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("not XML: %v\n%s", err, svg)
				}
			}
			for _, s := range w.spans() {
				if !bytes.Contains(svg, []byte(">"+html.EscapeString(s.name)+"<")) {
					t.Errorf("no %q in the plot", s.name)
				}
			}
			if n := len(w.spans()); n != rows[name] {
				t.Errorf("%d phases, want %d: %v", n, rows[name], w.spans())
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	for s, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
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
		"no EIF":           {nil, "which EIF"},
		"two EIFs":         {[]string{"a", "--eif-path", "b"}, "twice"},
		"no port":          {[]string{"a", "--listen", "unix:/x"}, "PORT=ENDPOINT"},
		"bad port":         {[]string{"a", "--listen", "x=unix:/x"}, "expected a number"},
		"high port":        {[]string{"a", "--listen", "2147483648=exec:cat"}, "at most 2147483647"},
		"port twice":       {[]string{"a", "--listen", "5=exec:cat", "--listen", "5=exec:cat"}, "given twice"},
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
