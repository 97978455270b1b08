package timeline

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
)

// play adds a run to t: the lines of the console, one every 100 ms.
func play(t *Timeline, lines ...string) {
	t.Add(machine.Event{Kind: machine.PowerOn})
	for i, text := range lines {
		since := time.Duration(i+1) * 100 * time.Millisecond
		if text == "<heartbeat>" {
			t.Add(machine.Event{Kind: machine.Heartbeat, Since: since})
			continue
		}
		t.Add(machine.Event{Kind: machine.Line, Text: text, Since: since})
	}
	t.Add(machine.Event{Kind: machine.Ended, Since: time.Duration(len(lines)+1) * 100 * time.Millisecond})
}

func ignore(Event) {}

func TestEnding(t *testing.T) {
	start := []string{"[    0.000000] Linux version 6.12", "[    0.100000] Run /init as init process",
		"<heartbeat>"}
	for name, c := range map[string]struct {
		lines []string
		vsock *Ending
		want  Ending
	}{
		"success": {[]string{"hello", "neb: exit status=0"}, nil, Ending{Result: Exited}},
		"status":  {[]string{"neb: exit status=7"}, nil, Ending{Result: Exited, Status: 7}},
		"signal": {[]string{"neb: exit signal=SIGKILL"}, nil,
			Ending{Result: Killed, Signal: "SIGKILL"}},
		"vsock first": {[]string{"neb: exit status=7"}, &Ending{Result: Exited, Status: 3},
			Ending{Result: Exited, Status: 3}},
		"last line": {[]string{"neb: exit status=1", "neb: exit status=2"}, nil,
			Ending{Result: Exited, Status: 2}},
		"no newline": {[]string{"100 %neb: exit status=7"}, nil, Ending{Result: Exited, Status: 7}},
		"no newline 2": {[]string{"neb: xneb: exit signal=SIGTERM"}, nil,
			Ending{Result: NoStatus, Reason: "xneb: exit signal=SIGTERM"}},
		"other words": {[]string{"neb: exit status=0 is what I want"}, nil,
			Ending{Result: NoStatus, Reason: "exit status=0 is what I want"}},
		"kernel's line": {[]string{"[    0.200000] neb: exit status=0"}, nil, Ending{Result: NoStatus}},
		"impossible": {[]string{"neb: exit status=256"}, nil,
			Ending{Result: NoStatus, Reason: "exit status=256"}},
		"note": {[]string{"neb: note: the clock is not synchronized"}, nil, Ending{Result: NoStatus}},
		"PID 1 exited": {[]string{"neb: " + contract.BecomesPid1,
			"[    0.200000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300"}, nil,
			Ending{Result: Exited, Status: 3}},
		"PID 1 was killed": {[]string{"neb: " + contract.BecomesPid1,
			"[    0.200000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000008b"}, nil,
			Ending{Result: Killed, Signal: "SIGSEGV"}},
		"init was killed": {[]string{"[    0.2] Kernel panic - not syncing: Attempted to kill init! " +
			"exitcode=0x00000300"},
			nil, Ending{Result: NoStatus,
				Reason: "[    0.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300"}},
		"init failed": {[]string{"neb: exec /x: no such file"}, nil,
			Ending{Result: NoStatus, Reason: "exec /x: no such file"}},
		"panic": {[]string{"[    0.200000] Kernel panic - not syncing: VFS"}, nil,
			Ending{Result: NoStatus, Reason: "[    0.200000] Kernel panic - not syncing: VFS"}},
	} {
		t.Run(name, func(t *testing.T) {
			tl := New(ignore)
			tl.reported = c.vsock
			play(tl, append(start[:3:3], c.lines...)...)
			if got := tl.Ending(); got != c.want {
				t.Errorf("%+v, expected %+v", got, c.want)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	var names, phases []string
	var last Event
	tl := New(func(e Event) {
		last = e
		switch {
		case e.Event == Phase:
			phases = append(phases, fmt.Sprintf("%s %.1f+%.1f %v", e.Name, e.Time, *e.Duration, e.Part))
			return
		case e.Event != string(machine.Line):
			names = append(names, e.Event)
		}
		if e.Event == Kernel && e.Time != 0 {
			t.Errorf("the kernel's clock started at %v, expected 0", e.Time)
		}
		if e.Kernel != nil && strings.Contains(*e.Text, "Unpacking") && *e.Kernel != 0.13 {
			t.Errorf("the kernel's own time is %v, expected 0.13", *e.Kernel)
		}
	})
	play(tl, "[    0.100000] Linux version", "noise of the firmware", "[    0.130000] Unpacking initramfs...",
		"[    0.140000] Freeing initrd memory: 1K", "[    0.200000] Run /init as init process",
		"[    0.210000] nsm: loaded", "<heartbeat>", "hello", "again", "neb: exit status=7")
	tl.Finish(tl.Ending(), 7)
	if got := strings.Join(names, " "); got != "power-on kernel init heartbeat application power-off end" {
		t.Errorf("events: %s", got)
	}
	if last.Event != End || last.Result != Exited || *last.Status != 7 || last.Time != 1.1 {
		t.Errorf("last event: %+v", last)
	}
	want := []string{
		"firmware 0.0+0.0 false",
		"kernel 0.0+0.5 false",
		"kernel-early 0.1+0.2 true",
		"kernel-filesystems 0.3+0.2 true",
		"kernel-unpack 0.3+0.1 true",
		"init 0.5+0.2 false",
		"init-start 0.5+0.1 true",
		"init-nsm 0.6+0.1 true",
		"application-start 0.7+0.1 false",
		"application 0.8+0.3 false",
	}
	if !slices.Equal(phases, want) {
		t.Errorf("phases:\n%s\nexpected:\n%s", strings.Join(phases, "\n"), strings.Join(want, "\n"))
	}
}

// An application that runs for an hour gets a fifth of the bars' width, and the start the rest.
func TestSVGOfLongRun(t *testing.T) {
	tl := New(ignore)
	for name, since := range map[string]time.Duration{
		Kernel: time.Second, Init: 2 * time.Second, string(machine.Heartbeat): 3 * time.Second,
		Application: 4 * time.Second, string(machine.Ended): time.Hour,
	} {
		tl.mark(name, since)
	}
	svg := string(tl.SVG("server"))
	if !strings.Contains(svg, `x="718.0"`) || !strings.Contains(svg, ">3596.000 s<") {
		t.Errorf("expected the application's bar at 350 + 460 * 4/5, and how long it ran:\n%s", svg)
	}
}

func TestSVG(t *testing.T) {
	for name, c := range map[string]struct {
		phases int
		lines  []string
	}{
		"whole": {8, []string{"[    0.000000] Linux version", "[    0.050000] Memory: 1K",
			"[    0.200000] Run /init as init process", "<heartbeat>", "hello <&>", "neb: exit status=0"}},
		"silent":  {2, []string{"<heartbeat>"}},
		"nothing": {0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tl := New(ignore)
			play(tl, c.lines...)
			svg := tl.SVG("a <title> & more")
			for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("invalid XML: %v\n%s", err, svg)
				}
			}
			for _, s := range tl.spans() {
				if !bytes.Contains(svg, []byte(">"+html.EscapeString(s.label)+"<")) {
					t.Errorf("the plot lacks %q", s.label)
				}
			}
			if n := len(tl.spans()); n != c.phases {
				t.Errorf("%d phases, expected %d: %v", n, c.phases, tl.spans())
			}
		})
	}
}

// Every name of a phase is in docs/json.md.
func TestPhaseNamesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	for i, l := range landmarks {
		if l.text == initLandmarks[0].text {
			l.text += " as init process"
		}
		if l.text == rootLandmarks[0].text {
			lines = append(lines, "<heartbeat>")
		}
		lines = append(lines, fmt.Sprintf("[    0.%06d] %s", i, l.text))
	}
	names := map[string]bool{}
	for _, lines := range [][]string{append(lines[:len(lines)-2:len(lines)-2], "hello"), {"<heartbeat>"},
		lines} {
		tl := New(ignore)
		play(tl, lines...)
		for _, s := range tl.spans() {
			names[s.name] = true
			if !bytes.Contains(page, []byte("`"+s.name+"`")) {
				t.Errorf("docs/json.md: the phase %s is missing", s.name)
			}
		}
	}
	for _, l := range landmarks[:len(landmarks)-len(unpacking)] {
		if !names[l.name] {
			t.Errorf("the phase %s was not tried", l.name)
		}
	}
}
