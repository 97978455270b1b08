//go:build linux && amd64

// Command meter measures what a program that is PID 1 does until the application's first instruction. It is
// both ends of the way: as /init it notes where things stand and becomes /measured, the program in question;
// as the application it says how far things have gone. With QEMU's -icount shift=0 a nanosecond of the
// guest's clock is an instruction, or a wait.
package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// at is the clock at the first instruction, used this process's own time; see entry_amd64.s.
var at, used unix.Timespec

// noted is the variable in which /init leaves what it noted: the kernel keeps the environment that a program
// begins with.
const noted = "METER="

func main() {
	if os.Getpid() == 1 {
		begin()
	}
	var began, now standing
	environ, err := os.ReadFile("/proc/1/environ")
	check(err)
	_, text, _ := strings.Cut(string(environ), noted)
	text, _, _ = strings.Cut(text, "\x00")
	began.parse(text)
	now.clock, now.idle = at.Nano(), idle()
	now.used = used.Nano()
	// of process 1, CPUCLOCK_SCHED: what the scheduler has counted (linux/posix-timers.h)
	const clock = ^1<<3 | 2
	var t unix.Timespec
	check(unix.ClockGettime(clock, &t))
	now.used += t.Nano()

	status, err := os.ReadFile("/proc/1/status")
	check(err)
	_, peak, _ := bytes.Cut(status, []byte("VmHWM:"))
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	check(err)
	passed := now.clock - began.clock
	console.WriteString("meter: clock=" + number(passed) + " executed=" +
		number(passed-(now.idle-began.idle)) + " used=" + number(now.used-began.used) +
		" kilobytes=" + strings.Fields(string(peak))[0] + "\n")
}

// begin notes where things stand, and becomes the program to measure. It leaves nothing else behind.
func begin() {
	check(unix.Mkdir("/proc", 0o555))
	check(unix.Mount("proc", "/proc", "proc", 0, ""))
	now := standing{idle: idle()}
	check(unix.Unmount("/proc", 0))
	check(unix.Rmdir("/proc"))
	var t unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t))
	now.used = t.Nano()
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &t))
	now.clock = t.Nano()
	check(unix.Exec("/measured", []string{"/init"}, append(os.Environ(), noted+now.String())))
}

// standing is a moment: the clock, how much of it the processor has been idle, and how much PID 1 and what
// became of it have used.
type standing struct{ clock, idle, used int64 }

func (s standing) String() string {
	return number(s.clock) + " " + number(s.idle) + " " + number(s.used)
}

func (s *standing) parse(text string) {
	f := strings.Fields(text)
	for i, at := range []*int64{&s.clock, &s.idle, &s.used} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		check(err)
		*at = n
	}
}

// idle is how long the only processor has been idle, in nanoseconds.
func idle() int64 {
	b, err := os.ReadFile("/proc/timer_list")
	check(err)
	total := int64(0)
	for line := range strings.Lines(string(b)) {
		// .idle_sleeptime and .iowait_sleeptime
		if key, value, ok := strings.Cut(line, ":"); ok && strings.Contains(key, "_sleeptime") {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			check(err)
			total += n
		}
	}
	return total
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}
