package component

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

// tail is how many lines of a log an error shows.
const tail = 20

// log takes what the commands of a job say. It is kept, by name, only when the job fails.
type log struct {
	path string

	mu     sync.Mutex
	file   *os.File
	line   []byte   // the last one, not ended yet
	last   []string // the last whole ones, at most tail
	report progress.Func
	event  progress.Event
	counts func(line string) bool // lines that are progress; nil for none
}

func newLog(s *store.Store, key, stage string, report progress.Func) (*log, error) {
	file, err := s.Log(key[:min(len(key), 32)] + ".log")
	if err != nil {
		return nil, err
	}
	return &log{path: file.Name(), file: file, report: report, event: progress.Event{Stage: stage}}, nil
}

// count makes the lines for which is answers true progress, out of an estimate.
func (l *log) count(stage, unit string, estimate int64, is func(line string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.event = progress.Event{Stage: stage, Total: estimate, Unit: unit}
	l.counts = is
}

// counted ends what count began: whatever the estimate was, all is done.
func (l *log) counted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts = nil
	l.event.Total = l.event.Done
	l.report.Send(l.event)
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = append(l.line, p...)
	for {
		i := bytes.IndexByte(l.line, '\n')
		if i < 0 {
			break
		}
		l.add(string(l.line[:i]))
		l.line = l.line[i+1:]
	}
	return l.file.Write(p)
}

func (l *log) add(line string) {
	if len(l.last) == tail {
		l.last = l.last[1:]
	}
	l.last = append(l.last, line)
	if l.counts != nil && l.counts(line) {
		l.event.Done++
		l.event.Total = max(l.event.Total, l.event.Done+1) // it was an estimate
		l.report.Send(l.event)
	}
}

// errLogged marks an error whose reason is in the log.
type errLogged struct{ error }

func (e errLogged) Unwrap() error { return e.error }

// close ends the log with the job's error, and returns that with what the log has to say about it.
func (l *log) close(err error, interrupted bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.add(string(l.line))
	}
	closeErr := l.file.Close()
	var logged errLogged
	if err == nil || interrupted || !errors.As(err, &logged) {
		_ = os.Remove(l.path)
		return errors.Join(err, closeErr)
	}
	return fmt.Errorf("%w; the last lines of %s:\n  %s", err, l.path, strings.Join(l.last, "\n  "))
}
