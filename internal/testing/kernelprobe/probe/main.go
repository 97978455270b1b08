// Command probe is a PID 1 that tries what an application may ask of the kernel, says on the console how each
// went, and reboots. The tests and the benchmark of package kernel boot it; nothing that neb builds contains
// it.
//
// It prints one line each, and nothing else:
//
//	probe: tsc N              the time stamp counter as its first act (x86-64)
//	probe: is NAME: VALUE     something worth knowing
//	probe: ok NAME
//	probe: fail NAME: ERROR
//	probe: end
//
//	probe: cost WORK: N       time stamp counter from the beginning to the end of some work
//
// With the word "probe.tsc" on the kernel command line it stops after the first, with "probe.work" it does
// and tells the work instead of the checks.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	start := tsc()
	if len(os.Args) > 1 && os.Args[1] == "nothing" {
		return // a program of the work, not PID 1
	}
	runtime.LockOSThread() // namespaces belong to the thread
	console()
	if start != 0 {
		fmt.Printf("probe: tsc %d\n", start)
	}
	line, _ := os.ReadFile("/proc/cmdline")
	switch words := string(line); {
	case strings.Contains(words, "probe.tsc"):
	case strings.Contains(words, "probe.work"):
		work()
	default:
		tell()
		for _, c := range checks() {
			if err := c.try(); err != nil {
				fmt.Printf("probe: fail %s: %v\n", c.name, err)
			} else {
				fmt.Printf("probe: ok %s\n", c.name)
			}
		}
		fmt.Println("probe: end")
	}
	unix.IoctlSetInt(1, unix.TCSBRK, 1) // until the console has sent it all
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // never an exit: that would be a panic of the kernel
}

// console mounts what a PID 1 finds missing and puts the standard streams on the console.
func console() {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"},
		{"sysfs", "/sys"}} {
		os.MkdirAll(m.at, 0o755)
		unix.Mount(m.kind, m.at, m.kind, 0, "")
	}
	if fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		for std := range 3 {
			unix.Dup3(fd, std, 0)
		}
	}
}

// tell prints what a check could not judge.
func tell() {
	is := func(name, value string) { fmt.Printf("probe: is %s: %s\n", name, strings.TrimSpace(value)) }
	file := func(name, path string) {
		if text, err := os.ReadFile(path); err == nil {
			is(name, string(text))
		}
	}
	is("year", fmt.Sprint(time.Now().UTC().Year()))
	is("time", time.Now().UTC().Format(time.RFC3339))
	is("cpus", fmt.Sprint(runtime.NumCPU()))
	var root unix.Statfs_t
	if unix.Statfs("/", &root) == nil {
		is("root", map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs"}[int64(root.Type)])
	}
	file("release", "/proc/sys/kernel/osrelease")
	file("clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
	file("nodes", "/sys/devices/system/node/has_memory")
	file("cpus possible", "/sys/devices/system/cpu/possible")
	if kmsg := kernelLog(); kmsg != "" {
		for _, line := range strings.Split(kmsg, "\n") {
			if strings.Contains(line, "crng init done") {
				is("random", line)
			}
		}
	}
}

// kernelLog returns what the kernel has printed so far.
func kernelLog() string {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	buffer := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}
