package contract

import (
	"errors"
	"strconv"
	"strings"
)

// signals are the signals of Linux on x86_64 and aarch64, by number (include/uapi/asm-generic/signal.h).
// Package syscall has those of the system that packs.
var signals = [...]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE",
	9: "KILL", 10: "USR1", 11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT",
	17: "CHLD", 18: "CONT", 19: "STOP", 20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU",
	25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO", 30: "PWR", 31: "SYS",
}

const (
	rtMin = 34 // SIGRTMIN of C libraries, which use 32 and 33 themselves
	rtMax = 64
)

// Signal returns the number of a signal. It accepts what image configurations hold: "SIGTERM", "TERM", "15",
// "SIGRTMIN+3", in upper or lower case.
func Signal(name string) (int, error) {
	bad := func() (int, error) {
		return 0, errors.New(strconv.Quote(name) + " is not a signal of Linux")
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > rtMax {
			return bad()
		}
		return n, nil
	}
	short := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for n, s := range signals {
		if s == short && s != "" {
			return n, nil
		}
	}
	for _, base := range []struct {
		name string
		n    int
	}{{"RTMIN", rtMin}, {"RTMAX", rtMax}} {
		offset, ok := strings.CutPrefix(short, base.name)
		if !ok {
			continue
		}
		n := base.n
		if offset != "" {
			d, err := strconv.Atoi(offset) // keeps the sign
			if err != nil || offset[0] != '+' && offset[0] != '-' {
				return bad()
			}
			n += d
		}
		if n < rtMin || n > rtMax {
			return bad()
		}
		return n, nil
	}
	return bad()
}

// SignalName returns the name of signal n, such as "SIGKILL" or "SIGRTMIN+3".
func SignalName(n int) string {
	switch {
	case n > 0 && n < len(signals):
		return "SIG" + signals[n]
	case n == rtMin:
		return "SIGRTMIN"
	case n > rtMin && n <= rtMax:
		return "SIGRTMIN+" + strconv.Itoa(n-rtMin)
	}
	return strconv.Itoa(n)
}
