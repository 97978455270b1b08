//go:build linux && amd64

// Command meter says how much processor time the machine has used until this program's first instruction, apart from what
// the kernel did outside of any process. With QEMU's -icount shift=0 a nanosecond is an instruction. As /init it measures the start of the
// kernel; as the application, the start of kernel and init.
package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// first is this process's own time at its first instruction; see entry_amd64.s.
var first unix.Timespec

func main() {
	if os.Getpid() == 1 {
		unix.Mount("proc", "/proc", "proc", 0, "")
		unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	}
	total := first.Nano()
	all, _ := os.ReadDir("/proc")
	for _, p := range all {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var t unix.Timespec
		const sched = 2 // CPUCLOCK_SCHED of linux/posix-timers.h: what the scheduler has counted, for the whole process
		if unix.ClockGettime(int32(^pid<<3|sched), &t) == nil {
			total += t.Nano()
		}
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
	console.WriteString("meter: instructions=" + strconv.FormatInt(total, 10) + " kilobytes=" + f[0] + "\n")
	if os.Getpid() == 1 {
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
