package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

// progressEvery is how often progress is a line where there is no terminal.
const progressEvery = 10 * time.Second

// progressView shows what a build is doing: a bar on a terminal, plain lines otherwise.
type progressView struct {
	w   io.Writer
	bar bool
	now func() time.Time

	mu      sync.Mutex
	drawn   *progressbar.ProgressBar
	stage   string // the one that is shown
	last    progress.Event
	shown   progress.Event // as the last line says it
	started time.Time
	said    time.Time
	timer   *time.Timer // for a line after the last of many events
}

func newProgress(w io.Writer) *progressView {
	f, ok := printable.Raw(w).(*os.File)
	return &progressView{w: w, bar: ok && term.IsTerminal(int(f.Fd())), now: time.Now}
}

// event is a [progress.Func].
func (p *progressView) event(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Note != "" {
		p.note(e.Note)
		e.Note = ""
	}
	if e.Unit == "" || e.Stage != p.stage && e == p.last {
		return // a stage may say more than once that it is done
	}
	if e.Stage != p.stage {
		p.end()
		p.begin(e)
	}
	p.last = e
	switch {
	case p.drawn != nil:
		if int64(p.drawn.GetMax64()) != e.Total {
			p.drawn.ChangeMax64(e.Total)
		}
		_ = p.drawn.Set64(e.Done)
	default:
		p.line()
	}
	if e.Total > 0 && e.Done >= e.Total {
		p.end()
	}
}

// line says how far a stage is, if there is something new and it is time.
func (p *progressView) line() {
	if now := p.now(); p.last != p.shown && now.Sub(p.said) >= progressEvery {
		p.shown, p.said = p.last, now
		printLine(p.w, "%s: %s", p.stage, amount(p.last))
	}
}

// tick makes lines come while no events do.
func (p *progressView) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stage != "" && p.drawn == nil {
		p.line()
		p.timer.Reset(progressEvery)
	}
}

func (p *progressView) note(text string) {
	if p.drawn != nil {
		_ = p.drawn.Clear()
	}
	fmt.Fprintln(p.w, printable.Indent(text))
}

func (p *progressView) begin(e progress.Event) {
	p.stage, p.started, p.said = e.Stage, p.now(), p.now()
	if !p.bar {
		p.shown = e
		printLine(p.w, "%s: %s", e.Stage, amount(e))
		p.timer = time.AfterFunc(progressEvery, p.tick)
		return
	}
	p.drawn = progressbar.NewOptions64(e.Total,
		progressbar.OptionSetWriter(printable.Raw(p.w)),
		progressbar.OptionSetDescription(printable.Line(e.Stage)),
		progressbar.OptionShowBytes(e.Unit == "bytes"),
		progressbar.OptionShowCount(),
		progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

// end leaves a line that says what was done and how long it took.
func (p *progressView) end() {
	if p.stage == "" {
		return
	}
	if p.drawn != nil {
		_ = p.drawn.Clear()
		p.drawn = nil
	} else {
		p.timer.Stop()
	}
	took := p.now().Sub(p.started).Round(100 * time.Millisecond)
	printLine(p.w, "%s: %s in %v", p.stage, amount(p.last), took)
	p.stage = ""
}

// close ends what is shown.
func (p *progressView) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// amount is how far an event is, as people read it.
func amount(e progress.Event) string {
	count, unit := func(n int64) string { return fmt.Sprint(n) }, e.Unit
	if e.Unit == "bytes" {
		count, unit = func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }, "MB"
	}
	done, total := count(e.Done), count(e.Total)
	if e.Total == 0 || e.Done == e.Total {
		return done + " " + unit
	}
	return fmt.Sprintf("%s of %s %s (%d%%)", done, total, unit, 100*e.Done/e.Total)
}
