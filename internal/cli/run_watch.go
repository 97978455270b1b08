package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// A watcher follows a run: it prints what there is to print, and remembers what the end and the plot need.
type watcher struct {
	s      streams
	asJSON bool

	mu       sync.Mutex
	marks    []mark        // milestones, in order
	lines    []consoleLine // of the kernel, the first maxLines
	reported *ending       // by vsock
	said     *ending       // by the last line of the console that says so
	reason   string        // the last line of the console that is init's or a panic
}

// A mark is a milestone of a run.
type mark struct {
	name  string
	since time.Duration // since power-on
}

// The milestones that the console shows, besides those of package machine.
const (
	markKernel      = "kernel"      // the first lines of the kernel, which come when it has a console
	markInit        = "init"        // PID 1 starts
	markApplication = "application" // the application says its first word
	markEnd         = "end"
)

// A consoleLine is one line of the console, and when it came.
type consoleLine struct {
	text  string
	since time.Duration
	clock time.Duration // the kernel's own time; only where printk is set
	print bool          // a line of the kernel
}

// An ending is how an application ended.
type ending struct {
	status int
	signal string
}

// How much of the kernel's lines the plot can see; the application may write what looks like them.
const (
	maxLines = 4096
	maxText  = 200 // bytes of each
)

// console is where the enclave's console goes: nowhere, when events are printed.
func (w *watcher) console() io.Writer {
	if w.asJSON {
		return nil
	}
	return w.s.out
}

// runEvent is what neb run --json prints, one a line.
type runEvent struct {
	Event    string   `json:"event"`
	Time     float64  `json:"time"`               // seconds since power-on; of phase: when it begins
	Text     *string  `json:"text,omitempty"`     // of console: the line; of parent: what happened; of phase: its name
	Kernel   *float64 `json:"kernel,omitempty"`   // of console, lines of the kernel: its own time, in seconds
	Duration *float64 `json:"duration,omitempty"` // of phase, in seconds
	Part     bool     `json:"part,omitempty"`     // of phase: it is a part of the last one that is none
	Status   *int     `json:"status,omitempty"`   // of end: what neb run exits with
	Signal   string   `json:"signal,omitempty"`   // of end: what killed the application
	Reason   string   `json:"reason,omitempty"`   // of end: why there is no status of an application
}

// seconds is what events have for a time: microseconds are enough.
func seconds(t time.Duration) float64 { return t.Round(time.Microsecond).Seconds() }

func (w *watcher) print(e runEvent) {
	if w.asJSON {
		if b, err := json.Marshal(e); err == nil {
			w.s.out.Write(append(b, '\n'))
		}
	}
}

// mark notes a milestone, the first time.
func (w *watcher) mark(name string, since time.Duration) {
	if _, ok := w.at(name); !ok {
		w.marks = append(w.marks, mark{name, since})
		w.print(runEvent{Event: name, Time: seconds(since)})
	}
}

func (w *watcher) at(name string) (time.Duration, bool) {
	for _, m := range w.marks {
		if m.name == name {
			return m.since, true
		}
	}
	return 0, false
}

// event takes what the machine says.
func (w *watcher) event(e machine.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case machine.Line:
		w.line(parseLine(e.Text, e.Since))
	case machine.Parent:
		w.print(runEvent{Event: string(e.Kind), Time: seconds(e.Since), Text: &e.Text})
		fmt.Fprintf(w.s.err, "neb: %s\n", e.Text)
	default:
		w.mark(string(e.Kind), e.Since)
	}
}

// printk is how the kernel's lines begin: seconds since its clock started.
var printk = regexp.MustCompile(`^\[ *([0-9]+\.[0-9]+)\]`)

func parseLine(text string, since time.Duration) consoleLine {
	l := consoleLine{text: text, since: since}
	if m := printk.FindStringSubmatch(text); m != nil {
		if clock, err := time.ParseDuration(m[1] + "s"); err == nil {
			l.print, l.clock = true, clock
		}
	}
	return l
}

func (w *watcher) line(l consoleLine) {
	if l.print {
		w.mark(markKernel, max(0, l.since-l.clock))
	}
	text, byInit := strings.CutPrefix(l.text, "neb: ")
	if m := lastWord.FindStringSubmatch(l.text); !byInit && !l.print && m != nil {
		text, byInit = m[1], true
	}
	switch _, started := w.at(markInit); {
	case l.print && strings.Contains(l.text, "] Run /init as init process"):
		w.mark(markInit, l.since)
	case l.print && strings.Contains(l.text, "Kernel panic"):
		w.reason = l.text
	case byInit:
		w.reason = text
		if e := parseEnding(text); e != nil {
			w.said = e
		}
	case !l.print && started:
		w.mark(markApplication, l.since)
	}
	if l.print && len(w.lines) < maxLines {
		kept := l
		kept.text = strings.Clone(l.text[:min(len(l.text), maxText)])
		w.lines = append(w.lines, kept)
	}
	e := runEvent{Event: string(machine.Line), Time: seconds(l.since), Text: &l.text}
	if l.print {
		clock := seconds(l.clock)
		e.Kernel = &clock
	}
	w.print(e)
}

// lastWord is init's last line behind what an application wrote without a newline. It could write the whole line as well.
var lastWord = regexp.MustCompile(`neb: (exit (?:status=[0-9]+|signal=\S+))$`)

// parseEnding reads init's last line (docs/init-contract.md), without its "neb: ".
func parseEnding(text string) *ending {
	if s, ok := strings.CutPrefix(text, "exit status="); ok {
		if n, err := strconv.ParseUint(s, 10, 8); err == nil {
			return &ending{status: int(n)}
		}
	}
	if s, ok := strings.CutPrefix(text, "exit signal="); ok {
		return &ending{signal: s}
	}
	return nil
}

// takeReport serves the port on which init reports the end, where the image's description asks for that.
func (w *watcher) takeReport(_ context.Context, c *vsock.Conn) {
	if c.Accept() != nil {
		return
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(io.LimitReader(c, contract.MaxSize))
	if err != nil {
		return
	}
	report, err := contract.DecodeReport(string(b))
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		fmt.Fprintf(w.s.err, "neb: the enclave's exit report: %v\n", err)
	case report.Phase == "exit":
		w.reported = &ending{int(report.Status), report.Signal}
	default:
		w.reason = "it failed in phase " + report.Phase
	}
}

// end prints how the run ended and returns neb run's error for it, nil where the application's status was 0. forced is the
// exit status where neb ended the enclave, 0 where it ended itself.
func (w *watcher) end(forced int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := runEvent{Event: markEnd}
	if n := len(w.marks); n > 0 {
		e.Time = seconds(w.marks[n-1].since)
	}
	if since, ok := w.at(string(machine.Ended)); ok {
		e.Time = seconds(since)
	}
	how := w.reported
	if how == nil {
		how = w.said
	}
	code := forced
	var err error
	switch {
	case forced != 0:
	case how == nil:
		code = exitNoStatus
		e.Reason = w.reason
		err = errors.New("the enclave ended without a status of its application")
		if w.reason != "" {
			err = fmt.Errorf("%w: %s", err, w.reason)
		}
	case how.signal != "":
		e.Signal = how.signal
		code = exitSignal
		if n, err := contract.Signal(how.signal); err == nil {
			code += n
		}
	default:
		code = how.status
	}
	e.Status = &code
	w.printPhases()
	w.print(e)
	if code == 0 {
		return nil
	}
	return &ExitError{Code: code, Err: err}
}

// How far reportPort looks into a ramdisk: neb writes the description before the application's tree.
const maxSearched = 1 << 20

// reportPort is the port on which the init of an image reports how its application ended, 0 where it does not.
func reportPort(path string) uint32 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	file, err := eif.Open(f, st.Size())
	if err != nil {
		return 0 // the machine will say so
	}
	for _, s := range file.All(eif.Ramdisk) {
		// A compressed ramdisk is none of neb's.
		r := initramfs.NewReader(io.LimitReader(file.Content(s), maxSearched))
		for {
			h, err := r.Next()
			if err != nil {
				break
			}
			if "/"+h.Name != contract.Path {
				continue
			}
			if b, err := io.ReadAll(r); err == nil {
				if d, err := contract.Decode(string(b)); err == nil {
					return d.ExitReport
				}
			}
			return 0
		}
	}
	return 0
}
