//go:build linux && (amd64 || arm64)

package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const (
	// ptpDevice is the host's clock, where the hypervisor offers it (PTP_1588_CLOCK_KVM).
	ptpDevice = "/dev/ptp0"
	// clockInterval is the time between two comparisons. A clock that is wrong by the 500 ppm that the kernel
	// allows for drifts by 5 ms in it.
	clockInterval = 10 * time.Second
	// maxSlew is the largest change of the clock's rate: 1%.
	maxSlew = 10_000 // ppm
	// maxOffset is what is slewed, in at most 100 seconds. More is a step.
	maxOffset = time.Second
)

// A servo keeps a clock at a reference.
type servo struct {
	offset func() (time.Duration, error)     // how far the clock is behind the reference
	step   func(by time.Duration) error      // sets the clock
	slew   func(partsPerMillion int64) error // changes the rate of the clock until the next call
}

// compare slews the clock so that it would be right after clockInterval, or steps it if it is wrong by more
// than maxOffset; then it returns by how much.
func (s *servo) compare() (stepped time.Duration, err error) {
	offset, err := s.offset()
	rate := int64(0)
	switch {
	case err != nil:
	case offset > maxOffset || offset < -maxOffset:
		stepped, err = offset, s.step(offset)
	default:
		rate = min(max(int64(offset*1e6/clockInterval), -maxSlew), maxSlew)
	}
	if err2 := s.slew(rate); err == nil {
		err = err2
	}
	return stepped, err
}

// setClock sets the clock to the host's, where there is one. An application that may set the clock keeps it
// itself: chrony can.
func (e *enclave) setClock() error {
	fd, err := open(ptpDevice, unix.O_RDWR)
	if err != nil {
		say("note: the clock is not synchronized: " + fail("open", ptpDevice, err).Error())
		return nil
	}
	s := hostServo(fd)
	offset, err := s.offset()
	if err == nil {
		err = s.step(offset)
	}
	if err != nil {
		warn(fail("set the clock from", ptpDevice, err))
		return nil
	}
	if !e.about.Pid1 && !e.has(contract.CapSysTime) {
		e.clock = s
	}
	return nil
}

// keepClock compares the clock with the host's as long as the enclave runs.
func (e *enclave) keepClock() {
	if e.clock == nil {
		return
	}
	for failed := false; ; time.Sleep(clockInterval) {
		stepped, err := e.clock.compare()
		if err != nil && !failed {
			warn(fail("synchronize the clock with", ptpDevice, err))
		}
		if failed = err != nil; stepped != 0 && !failed {
			say("note: the clock was stepped by " + stepped.String())
		}
	}
}

// hostServo keeps the system's clock at a PTP device.
func hostServo(fd int) *servo {
	return &servo{
		offset: func() (time.Duration, error) { return clockOffset(unix.FdToClockID(fd)) },
		step: func(by time.Duration) error {
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
				return err
			}
			then := unix.NsecToTimespec(now.Nano() + int64(by))
			return unix.ClockSettime(unix.CLOCK_REALTIME, &then)
		},
		slew: func(partsPerMillion int64) error {
			// A tick of 10,000 µs that is longer by 1 µs makes the clock faster by 100 ppm. The frequency, in
			// ppm with 16 bits of fraction, may differ by 500.
			_, err := unix.Adjtimex(&unix.Timex{
				Modes: unix.ADJ_TICK | unix.ADJ_FREQUENCY,
				Tick:  10_000 + partsPerMillion/100,
				Freq:  partsPerMillion % 100 << 16,
			})
			return err
		},
	}
}

// clockOffset returns how far the system's clock is behind another. It reads that between two readings of
// ours, and takes the closest of five: this processor may lose time to others.
func clockOffset(id int32) (time.Duration, error) {
	var offset, window int64
	for range 5 {
		var t [3]unix.Timespec
		for i, clock := range [3]int32{unix.CLOCK_REALTIME, id, unix.CLOCK_REALTIME} {
			if err := unix.ClockGettime(clock, &t[i]); err != nil {
				return 0, err
			}
		}
		before, there, after := t[0].Nano(), t[1].Nano(), t[2].Nano()
		if window == 0 || after-before < window {
			window, offset = max(after-before, 1), there-before-(after-before)/2
		}
	}
	return time.Duration(offset), nil
}
