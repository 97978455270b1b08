//go:build linux && amd64

// Command meter says what the guest's clock showed at its first instruction, and how much processor time PID 1 and it had used by then. With
// QEMU's -icount shift=0 a nanosecond is an instruction. As /init it measures what the kernel does in PID 1 until /init begins; as the
// application, that and init.
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

func main() {
	if os.Getpid() == 1 {
		unix.Mkdir("/proc", 0o555)
		unix.Mount("proc", "/proc", "proc", 0, "")
		unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	}
	total := used.Nano()
	if os.Getpid() != 1 {
		var t unix.Timespec
		const clock = ^1<<3 | 2 // of process 1, CPUCLOCK_SCHED: what the scheduler has counted (linux/posix-timers.h)
		if err := unix.ClockGettime(clock, &t); err != nil {
			panic(err)
		}
		total += t.Nano()
	}
	b, _ := os.ReadFile("/proc/1/status")
	_, peak, _ := bytes.Cut(b, []byte("VmHWM:"))
	f := strings.Fields(string(peak))
	for len(f) < 1 {
		f = append(f, "0")
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		console = os.Stdout
	}
	console.WriteString("meter: clock=" + strconv.FormatInt(at.Nano(), 10) + " used=" + strconv.FormatInt(total, 10) + " kilobytes=" + f[0] + "\n")
	if os.Getpid() == 1 {
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
