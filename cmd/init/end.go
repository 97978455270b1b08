//go:build linux && (amd64 || arm64)

package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// wait reaps processes until the application has exited, and then ends those that it left behind.
func (e *enclave) wait(pid int) error {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && err != unix.EINTR {
			return fail("wait for", "the application", err)
		}
		if err == nil && got == pid {
			break
		}
		if err == nil {
			e.carrierEnded(got)
		}
	}
	group = 0
	e.closeLink()
	e.clear()
	if status.Signaled() {
		return ended{signal: int(status.Signal())}
	}
	return ended{status: status.ExitStatus()}
}

// clear ends the processes that the application left behind: StopSignal, the time of grace, SIGKILL.
func (e *enclave) clear() {
	stop, err := contract.Signal(e.about.StopSignal)
	if err != nil {
		stop = int(unix.SIGTERM)
	}
	for _, round := range []struct {
		signal unix.Signal
		time   time.Duration
	}{{unix.Signal(stop), e.switches.grace}, {unix.SIGKILL, 2 * time.Second}} {
		if unix.Kill(-1, round.signal) == unix.ESRCH {
			break
		}
		for deadline := time.Now().Add(round.time); !reaped() && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	reaped()
}

// reaped reaps the processes that have exited, and reports whether none is left.
func reaped() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.ECHILD:
			return true
		case err == unix.EINTR, pid > 0:
		default:
			return false
		}
	}
}

// end is the only way out: it writes the reason to the console, reports to the parent if the description asks
// for it, and ends the machine.
func (e *enclave) end(phase string, why error) {
	unix.Sync()
	if log != nil {
		log.drain()
	}
	unix.IoctlSetInt(voice, unix.TCXONC, unix.TCOON) // the application may have stopped it
	say(why.Error())
	if log != nil {
		log.finish()
	}
	over, ok := why.(ended)
	report := contract.Report{Phase: phase}
	if ok {
		report.Status = uint32(over.status)
		if over.signal != 0 {
			report.Signal = contract.SignalName(over.signal)
		}
	}
	e.report(report)
	if !ok {
		time.Sleep(e.switches.linger)
	}
	how := unix.LINUX_REBOOT_CMD_RESTART
	if e.switches.halt {
		how = unix.LINUX_REBOOT_CMD_HALT
	}
	err := unix.Reboot(how)
	say(fail("end the machine", "", err).Error())
	for {
		time.Sleep(time.Hour)
	}
}

// report sends r to the parent. Errors are ignored, and it takes at most two seconds.
func (e *enclave) report(r contract.Report) {
	if e.about.ExitReport == 0 {
		return
	}
	b, err := contract.EncodeReport(r)
	if err != nil {
		return
	}
	fd, err := call(e.about.ExitReport)
	if err != nil {
		return
	}
	deadline := time.Now().Add(2 * time.Second)
	if connected(fd, deadline) != nil {
		return
	}
	if n, err := unix.Write(fd, b); err != nil || n != len(b) {
		return
	}
	unix.Shutdown(fd, unix.SHUT_WR)
	await(fd, unix.POLLIN, deadline) // the parent closes when it has read the report
}
