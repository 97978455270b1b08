// Package timeline follows one run of an enclave: its milestones, the phases of its start, and how it ended.
// It learns them from the events of a machine and from the console, and prints nothing.
package timeline

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// Milestones that the console shows, in addition to those of package machine.
const (
	Kernel      = "kernel"      // the kernel's clock starts
	Init        = "init"        // the kernel starts PID 1
	Application = "application" // the first line of output that is neither the kernel's nor init's
)

// Other kinds of [Event].
const (
	Log   = "log" // a line that init sent to the port of the parent that the image names
	Phase = "phase"
	End   = "end"
)

// Event is one line of 'neb run --json'. docs/json.md describes it.
type Event struct {
	Event    string   `json:"event"`
	Time     float64  `json:"time"`               // seconds since power-on; of phase: its start
	Text     *string  `json:"text,omitempty"`     // of console, log, parent and phase: words for people
	Stream   string   `json:"stream,omitempty"`   // of log: out, err or neb (contract.LogOut and its like)
	Cut      bool     `json:"cut,omitempty"`      // of log: the line goes on in the next one of the stream
	Kernel   *float64 `json:"kernel,omitempty"`   // of console, kernel lines: the kernel's own time in seconds
	Name     string   `json:"name,omitempty"`     // of phase
	Duration *float64 `json:"duration,omitempty"` // of phase, in seconds
	Part     bool     `json:"part,omitempty"`     // of phase: it is a sub-phase of the preceding phase
	Result   Result   `json:"result,omitempty"`   // of end
	Status   *int     `json:"status,omitempty"`   // of end: the exit status of neb run
	Signal   string   `json:"signal,omitempty"`   // of end: the signal that killed the application
	Reason   string   `json:"reason,omitempty"`   // of end: words for people; of network-refused: a word
	Count    int      `json:"count,omitempty"`    // of network-refused: packets since the last such event
}

// Result says how a run ended.
type Result string

// The results of a run. A timeline finds the first three; its caller causes the others.
const (
	Exited   Result = "exited"    // the application exited
	Killed   Result = "killed"    // a signal killed the application
	NoStatus Result = "no-status" // the enclave ended without reporting how its application ended
	Timeout  Result = "timeout"   // the caller stopped the enclave after its time limit
	Stopped  Result = "stopped"   // the caller stopped the enclave for another reason
)

// An Ending is how a run ended.
type Ending struct {
	Result Result
	Status int    // of Exited: the application's exit status
	Signal string // of Killed: its name
	Reason string // of NoStatus: init's last message or the kernel's panic, if there was one
}

// A Timeline collects the events of one run. Its methods may be called concurrently.
type Timeline struct {
	emit func(Event)

	mu       sync.Mutex
	marks    map[string]time.Duration // milestones, since power-on
	last     time.Duration            // the latest milestone
	on       time.Time                // of power-on
	seen     map[string]time.Duration // when a landmark first appeared in a line of the kernel
	reported *Ending                  // through vsock
	printed  *Ending                  // on the console
	reason   string

	handedOver bool // the application is PID 1
}

// New returns an empty timeline. It calls emit with every event, one at a time; emit must not call the
// timeline.
func New(emit func(Event)) *Timeline {
	return &Timeline{emit: emit, marks: map[string]time.Duration{}, seen: map[string]time.Duration{}}
}

// seconds returns t in seconds, rounded to microseconds.
func seconds(t time.Duration) float64 { return t.Round(time.Microsecond).Seconds() }

// Add adds an event of the machine. It is meant for [machine.Config].Event.
func (t *Timeline) Add(e machine.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = time.Now().Add(-e.Since)
	switch e.Kind {
	case machine.Line:
		t.line(e.Text, e.Since)
	case machine.Parent:
		t.emit(Event{Event: string(e.Kind), Time: seconds(e.Since), Text: &e.Text})
	default:
		t.mark(string(e.Kind), e.Since)
	}
}

// Network emits an event of the enclave's network.
func (t *Timeline) Network(kind, reason string, count int, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := Event{Event: kind, Time: seconds(time.Since(t.on)), Reason: reason, Count: count}
	if text != "" {
		e.Text = &text
	}
	t.emit(e)
}

// mark records a milestone the first time it is reached.
func (t *Timeline) mark(name string, since time.Duration) {
	if _, ok := t.marks[name]; !ok {
		t.marks[name], t.last = since, since
		t.emit(Event{Event: name, Time: seconds(since)})
	}
}

var (
	// printk is the prefix of the kernel's lines: seconds since the kernel's clock started.
	printk = regexp.MustCompile(`^\[ *([0-9]+\.[0-9]+)\]`)
	// pid1Ended is how the kernel panics (kernel/exit.c) when an application with Pid1 ends.
	pid1Ended = regexp.MustCompile(`Attempted to kill init! exitcode=0x([0-9a-f]{8})`)
	// lastLine is init's last line after output of the application that lacks a newline.
	lastLine = regexp.MustCompile(`neb: (exit (?:status=[0-9]+|signal=\S+))$`)
)

func (t *Timeline) line(text string, since time.Duration) {
	e := Event{Event: string(machine.Line), Time: seconds(since), Text: &text}
	if m := printk.FindStringSubmatch(text); m != nil {
		if clock, err := time.ParseDuration(m[1] + "s"); err == nil {
			own := seconds(clock)
			e.Kernel = &own
			t.mark(Kernel, max(0, since-clock))
			t.kernelLine(text, since)
			t.emit(e)
			return
		}
	}
	words, byInit := strings.CutPrefix(text, "neb: ")
	if m := lastLine.FindStringSubmatch(text); !byInit && m != nil {
		words, byInit = m[1], true
	}
	if byInit {
		if !strings.HasPrefix(words, "warning: ") && !strings.HasPrefix(words, "note: ") {
			t.reason = words
		}
		t.handedOver = t.handedOver || words == contract.BecomesPid1
		if ending := parseEnding(words); ending != nil {
			t.printed = ending
		}
	} else if _, started := t.marks[Init]; started {
		t.mark(Application, since)
	}
	t.emit(e)
}

func (t *Timeline) kernelLine(text string, since time.Duration) {
	for _, l := range landmarks {
		if _, ok := t.seen[l.text]; !ok && strings.Contains(text, l.text) {
			t.seen[l.text] = since
		}
	}
	switch {
	case strings.Contains(text, "] Run /init as init process"):
		t.mark(Init, since)
	case strings.Contains(text, "Kernel panic"):
		t.reason = text
		if m := pid1Ended.FindStringSubmatch(text); m != nil && t.handedOver {
			// The status of wait(2): the signal, or the exit status above 8 bits.
			n, _ := strconv.ParseUint(m[1], 16, 32)
			if signal := int(n & 0x7f); signal != 0 {
				t.printed = &Ending{Result: Killed, Signal: contract.SignalName(signal)}
			} else {
				t.printed = &Ending{Result: Exited, Status: int(n >> 8 & 0xff)}
			}
		}
	}
}

// parseEnding reads init's last line (docs/init-contract.md) without its prefix "neb: ". It returns nil for
// other text.
func parseEnding(text string) *Ending {
	if s, ok := strings.CutPrefix(text, "exit status="); ok {
		if n, err := strconv.ParseUint(s, 10, 8); err == nil {
			return &Ending{Result: Exited, Status: int(n)}
		}
	}
	if s, ok := strings.CutPrefix(text, "exit signal="); ok {
		return &Ending{Result: Killed, Signal: s}
	}
	return nil
}

// ServeReport serves the vsock port to which init reports how the application ended, if its description asks
// for that.
func (t *Timeline) ServeReport(_ context.Context, c *vsock.Conn) {
	if c.Accept() != nil {
		return
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(io.LimitReader(c, contract.MaxSize))
	if err != nil {
		return
	}
	report, err := contract.DecodeReport(string(b))
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		text := fmt.Sprintf("invalid exit report from the enclave: %v", err)
		t.emit(Event{Event: string(machine.Parent), Time: seconds(t.last), Text: &text})
	case report.Phase != "exit":
		t.reason = "init failed in phase " + report.Phase
	case report.Signal != "":
		t.reported = &Ending{Result: Killed, Signal: report.Signal}
	default:
		t.reported = &Ending{Result: Exited, Status: int(report.Status)}
	}
}

// ServeLog serves the vsock port to which init sends the application's output, if its description names one.
func (t *Timeline) ServeLog(_ context.Context, c *vsock.Conn) {
	if c.Accept() != nil {
		return
	}
	lines := bufio.NewScanner(c)
	lines.Buffer(nil, contract.MaxLogLine+len("out +"))
	for lines.Scan() {
		e := Event{Event: Log}
		line := lines.Text()
		for _, mark := range []string{contract.LogOut, contract.LogErr, contract.LogInit} {
			if rest, ok := strings.CutPrefix(line, mark); ok && rest != "" &&
				(rest[0] == ' ' || rest[0] == '+') {
				text := rest[1:]
				e.Stream, e.Cut, e.Text = mark, rest[0] == '+', &text
			}
		}
		if e.Text == nil {
			e = Event{Event: string(machine.Parent), Text: new(string)}
			*e.Text = fmt.Sprintf("invalid line in the enclave's log: %.40q", line)
		}
		t.mu.Lock()
		e.Time = seconds(time.Since(t.on))
		t.emit(e)
		t.mu.Unlock()
		if e.Event != Log {
			return
		}
	}
}

// Ending returns how the enclave ended. A report through vsock takes precedence over the console, where the
// application can write the same words.
func (t *Timeline) Ending() Ending {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.reported != nil:
		return *t.reported
	case t.printed != nil:
		return *t.printed
	}
	return Ending{Result: NoStatus, Reason: t.reason}
}

// Finish emits the phases and then the end. status is the exit status of neb run.
func (t *Timeline) Finish(e Ending, status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.spans() {
		length := seconds(s.to - s.from)
		t.emit(Event{Event: Phase, Time: seconds(s.from), Duration: &length,
			Name: s.name, Text: &s.label, Part: s.part})
	}
	end, ok := t.marks[string(machine.Ended)]
	if !ok {
		end = t.last
	}
	t.emit(Event{Event: End, Time: seconds(end),
		Result: e.Result, Status: &status, Signal: e.Signal, Reason: e.Reason})
}
