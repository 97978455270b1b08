// Package progress carries the progress of a build from the packages that work to the one that displays it.
// It does not format or print.
package progress

// Event is the state of one stage of a build. A stage sends many events; the last has Done == Total.
type Event struct {
	Stage string // name for users: "fetch", "unpack", "compile kernel x86_64"
	Done  int64  // in Unit
	Total int64  // in Unit; may be an estimate; 0 if there is no amount
	Unit  string // "bytes", "packages", "objects"
	Note  string // one line for users about a single event, such as a mirror that failed; usually empty
}

// Func receives events. It may be called from several goroutines at once. It may be nil: call it with
// [Func.Send].
type Func func(Event)

// Send calls f with e, unless f is nil.
func (f Func) Send(e Event) {
	if f != nil {
		f(e)
	}
}
