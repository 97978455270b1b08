//go:build linux && (amd64 || arm64)

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Signals that others send to PID 1 must not end it, and some go on to the application. Package os/signal
// would do, but brings package os, a thread and a goroutine along; the handlers in signal_*.s are three
// instructions long, and touch nothing of Go's.

// group is the process group to which forward sends the signals of PID 1, or 0.
var group int32 //nolint:unused // signal_*.s

// goHandler is the Go runtime's signal handler, which fault calls.
var goHandler uintptr //nolint:unused // signal_*.s

// handlers returns the addresses of the handlers in signal_*.s, and of the function that returns from them.
func handlers() (forward, absorb, fault, back uintptr)

var (
	forwarded = []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCONT, unix.SIGWINCH, unix.SIGPWR,
	}
	absorbed = []unix.Signal{
		unix.SIGTRAP, unix.SIGABRT, unix.SIGPIPE, unix.SIGSTKFLT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGXCPU, unix.SIGXFSZ,
		unix.SIGVTALRM, unix.SIGPROF, unix.SIGIO, unix.SIGSYS,
		// These the runtime leaves at their default. The kernel does not drop such a signal while the first
		// thread blocks it, as in a handler, and kills PID 1 if another thread does not (complete_signal,
		// kernel/signal.c).
		32, 33, 34,
	}
	// The runtime turns these into a panic if they are its own.
	faults = []unix.Signal{unix.SIGILL, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV}
)

// sigaction is the kernel's struct sigaction (linux/signal_types.h).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	saRestorer = 0x04000000
	saFlags    = 0x4 | saRestorer | 0x08000000 | 0x10000000 // SA_SIGINFO, SA_RESTORER, SA_ONSTACK, SA_RESTART
)

// takeSignals replaces the runtime's handlers.
func takeSignals() {
	forward, absorb, fault, back := handlers()
	for _, t := range []struct {
		signals []unix.Signal
		handler uintptr
	}{{forwarded, forward}, {absorbed, absorb}, {faults, fault}} {
		for _, s := range t.signals {
			now := sigaction{handler: t.handler, flags: saFlags, restorer: back, mask: ^uint64(0)}
			var was sigaction
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&now)),
				uintptr(unsafe.Pointer(&was)), unsafe.Sizeof(now.mask), 0, 0)
			if t.handler == fault {
				goHandler = was.handler
			}
		}
	}
}
