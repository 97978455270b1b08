//go:build linux && (amd64 || arm64)

// Command init is PID 1 of an enclave: it makes the root, tells the parent that the enclave is up, starts the application, and
// ends the machine when the application ends. docs/init-contract.md says what it reads and what it makes of it.
//
// It is not a service manager, and not for other machines. Every byte of it is measured and loaded by every enclave, so it
// uses the standard library and golang.org/x/sys alone, without fmt and encoding/json.
//
// Build it with -ldflags '-E nebstart' (see entry_amd64.s): without, it dies where the kernel has no console.
package main

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// enclave is what the steps know and learn. The zero value is the beginning.
type enclave struct {
	began    time.Time
	switches switches
	options  []option // of the kernel command line: parameters of modules
	beat     heartbeat
	console  bool // there is one

	structured bool // /neb/app is there; otherwise nitro-cli's mode
	about      contract.Description
	account    account
	env        []string
}

// steps lead to the application, in order. The heartbeat is three of them, so that the parent's answers are waited for while
// the rest goes on; but the byte is out before anything of the application is read.
var steps = []struct {
	phase          string // what an exit report calls it
	structuredOnly bool
	do             func(*enclave) error
}{
	{"console", false, (*enclave).openConsole},
	{"cmdline", false, (*enclave).readCommandLine},
	{"heartbeat", false, (*enclave).callParent},
	{"modules", false, (*enclave).loadModules},
	{"heartbeat", false, (*enclave).sendHeartbeat},
	{"description", false, (*enclave).describe},
	{"root", false, (*enclave).makeRoot},
	{"mounts", false, (*enclave).mountAll},
	{"network", true, (*enclave).setNetwork},
	{"random", true, (*enclave).waitForRandom},
	{"user", true, (*enclave).findUser},
	{"devices", true, (*enclave).giveDevices},
	{"limits", true, (*enclave).raiseLimits},
	{"workdir", true, (*enclave).enterWorkingDir},
	{"heartbeat", false, (*enclave).heartbeatAnswered},
}

func main() {
	if unix.Getpid() != 1 {
		say("this is PID 1 of an enclave, and does nothing when it is started as another process")
		unix.Exit(2)
	}
	takeSignals()
	e := &enclave{began: time.Now(), switches: defaults}
	phase := "start"
	// One way out: whatever happens ends in e.end, because the end of PID 1 is a kernel panic.
	defer func() {
		if p := recover(); p != nil {
			e.end(phase, fail("internal error", describePanic(p), nil))
		}
	}()
	for _, s := range steps {
		if s.structuredOnly && !e.structured {
			continue
		}
		phase = s.phase
		if err := s.do(e); err != nil {
			e.end(phase, err)
		}
	}
	phase = "exec"
	pid, err := e.start()
	if err != nil {
		e.end(phase, err)
	}
	group = int32(pid)
	phase = "exit"
	e.end(phase, e.wait(pid))
}

func describePanic(p any) string {
	switch p := p.(type) {
	case error:
		return p.Error()
	case string:
		return p
	}
	return "a panic that is neither an error nor a string"
}

// say writes one line on the console.
func say(line string) {
	b := make([]byte, 0, len(line)+6)
	b = append(b, "neb: "...)
	for i := 0; i < len(line); i++ {
		c := line[i]
		if c < ' ' || c == 0x7f { // one line it stays, whatever a file name holds
			b = append(b, '\\', 'x', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
			continue
		}
		b = append(b, c)
	}
	b = append(b, '\n')
	for len(b) > 0 {
		n, err := unix.Write(2, b)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		b = b[n:]
	}
}

// warn says what went wrong and did not matter enough to stop.
func warn(err error) { say("warning: " + err.Error()) }

// ended is how the application ended.
type ended struct {
	status int
	signal int
}

func (e ended) Error() string {
	if e.signal != 0 {
		return "exit signal=" + contract.SignalName(e.signal)
	}
	return "exit status=" + strconv.Itoa(e.status)
}
