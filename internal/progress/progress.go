// Package progress carries what a build is doing from the places that do it to whoever shows it.
package progress

// Event is the state of one stage of a build at one moment. A stage sends many; the last has Done == Total.
type Event struct {
	Stage string // what is being done, as a user reads it: "fetch", "unpack", "compile kernel x86_64"
	Done  int64  // how much of it is done, in Unit
	Total int64  // how much there is, in Unit; an estimate where it cannot be known; 0 where there is none
	Unit  string // "bytes", "packages", "objects"
	Note  string // one line about a passing thing a user should read (a mirror that failed); usually empty
}

// Func receives events. It may be called from several goroutines at once. A nil Func is not called: use [Func.Send].
type Func func(Event)

// Send gives e to f, if there is an f.
func (f Func) Send(e Event) {
	if f != nil {
		f(e)
	}
}
