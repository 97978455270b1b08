//go:build linux && (amd64 || arm64)

// Command init is PID 1 of an enclave: it mounts the root, tells the parent that the enclave is up, starts
// the application, and ends the machine when the application exits. docs/init-contract.md specifies what it
// reads and does.
//
// It is not a service manager, and not for other machines. Every enclave measures and loads it, so it uses
// only the standard library, without fmt and encoding/json, and golang.org/x/sys.
//
// neb build links it with -E nebstart, without which it exits where the kernel has no console (see
// entry_amd64.s), and with -buildid set to [contract.Note].
package main

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// enclave is the state that the steps share.
type enclave struct {
	began    time.Time
	switches switches
	options  []option // the kernel command line
	beat     heartbeat
	console  bool // the machine has one

	structured bool // /neb/app exists; otherwise nitro-cli's mode
	about      contract.Description
	account    contract.Account
	env        []string
	link       netLink
	clock      *servo // nil if nothing keeps the clock
}

// steps lead to the application, in order. The heartbeat takes three of them, so that the other steps run
// while the parent answers. init sends it before it reads anything of the application.
var steps = []struct {
	phase          string // in an exit report
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
	{"network", true, (*enclave).startLink},
	{"random", true, (*enclave).waitForRandom},
	{"user", true, (*enclave).findUser},
	{"devices", true, (*enclave).giveDevices},
	{"clock", true, (*enclave).setClock},
	{"limits", true, (*enclave).raiseLimits},
	{"confine", true, (*enclave).confine},
	{"workdir", true, (*enclave).enterWorkingDir},
	{"heartbeat", false, (*enclave).heartbeatAnswered},
	{"network", true, (*enclave).awaitLink},
}

func main() {
	if unix.Getpid() != 1 {
		if line, err := readFile("/proc/self/cmdline", contract.MaxSize); err == nil {
			if argv := strings.Split(line, "\x00"); argv[0] == carrierName {
				carry(argv[1:])
			}
		}
		say("this program must be PID 1 of an enclave")
		unix.Exit(2)
	}
	takeSignals()
	// Root in the application cannot attach to init, nor read its memory.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	e := &enclave{began: time.Now(), switches: defaults}
	phase := "start"
	// Every path ends in e.end, because the kernel panics when PID 1 exits.
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
	pid, err := e.launch()
	if err != nil {
		e.end(phase, err)
	}
	group = int32(pid)
	go e.keepClock()
	phase = contract.PhaseExit
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
	b := make([]byte, 0, len(line)+len(contract.LinePrefix)+1)
	b = append(b, contract.LinePrefix...)
	for i := 0; i < len(line); i++ {
		c := line[i]
		if c < ' ' || c == 0x7f { // a file name must not break the line
			b = append(b, '\\', 'x', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
			continue
		}
		b = append(b, c)
	}
	if log != nil {
		log.say(b[len(contract.LinePrefix):])
	}
	b = append(b, '\n')
	for deadline := time.Now().Add(consolePatience); len(b) > 0; {
		n, err := unix.Write(voice, b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if await(voice, unix.POLLOUT, deadline) != nil {
				return
			}
		case err != nil || n <= 0:
			return
		default:
			b = b[n:]
		}
	}
}

// warn reports an error after which init continues.
func warn(err error) { say("warning: " + err.Error()) }

// ended is how the application exited. It is the error of a run without an error.
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
