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

// tail is how many lines of the log an error shows.
const tail = 20

// log is the output of the commands of a job. The file is kept only if the job fails.
type log struct {
	path string

	mu     sync.Mutex
	file   *os.File
	line   []byte   // incomplete last line
	last   []string // last complete lines, at most tail
	report progress.Func
	event  progress.Event
	counts func(line string) bool // reports whether a line is progress; may be nil
}

func newLog(s *store.Store, key, stage string, report progress.Func) (*log, error) {
	file, err := s.Log(key[:min(len(key), 32)] + ".log")
	if err != nil {
		return nil, err
	}
	return &log{path: file.Name(), file: file, report: report, event: progress.Event{Stage: stage}}, nil
}

// count reports every line for which is returns true as progress. estimate is about how many such lines
// there are.
func (l *log) count(stage, unit string, estimate int64, is func(line string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.event = progress.Event{Stage: stage, Total: estimate, Unit: unit}
	l.counts = is
}

// counted ends the progress of count, and corrects the estimate.
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

// errLogged is an error whose reason is in the log.
type errLogged struct{ error }

func (e errLogged) Unwrap() error { return e.error }

// close closes the log and returns the job's error, with the last lines of the log if it is an errLogged.
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
