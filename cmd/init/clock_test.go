//go:build linux && amd64

package main

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A simulation is a clock that drifts, and a reference. Time passes in it only between two comparisons.
type simulation struct {
	servo
	behind time.Duration // of the clock
	drift  int64         // parts per million that the clock is too slow by
	noise  time.Duration // of each reading
	rate   int64         // set by the servo
	steps  int
	fail   error
}

func newSimulation() *simulation {
	s := &simulation{}
	random := rand.New(rand.NewPCG(1, 2))
	s.servo = servo{
		offset: func() (time.Duration, error) {
			return s.behind + time.Duration(random.Int64N(int64(2*s.noise+1))) - s.noise, s.fail
		},
		step: func(by time.Duration) error { s.behind -= by; s.steps++; return nil },
		slew: func(ppm int64) error { s.rate = ppm; return nil },
	}
	return s
}

// pass lets n intervals pass, and returns the largest error in them.
func (s *simulation) pass(n int) (worst time.Duration) {
	for range n {
		s.compare()
		s.behind += time.Duration((s.drift - s.rate) * int64(clockInterval) / 1e6)
		worst = max(worst, s.behind, -s.behind)
	}
	return worst
}

func TestServo(t *testing.T) {
	const limit = 10 * time.Millisecond
	for _, c := range []struct {
		name   string
		behind time.Duration
		drift  int64
		noise  time.Duration
		settle int // intervals until it is right
		steps  int
	}{
		{"right", 0, 0, 0, 0, 0},
		{"six seconds behind", 6 * time.Second, 10, 0, 1, 1},
		{"six seconds ahead", -6 * time.Second, 10, 0, 1, 1},
		{"a year behind", 365 * 24 * time.Hour, 0, 0, 1, 1},
		{"just too little for a step", time.Second, 0, 0, 10, 0},
		{"half a second ahead", -time.Second / 2, 100, 0, 6, 0},
		{"drifts by 500 ppm", 0, 500, 0, 0, 0},
		{"drifts by -500 ppm", 0, -500, 0, 0, 0},
		{"6 s in a week, read with an error of 1 ms", 0, 10, time.Millisecond, 0, 0},
	} {
		s := newSimulation()
		s.behind, s.drift, s.noise = c.behind, c.drift, c.noise
		s.pass(c.settle)
		if worst := s.pass(1000); worst > limit {
			t.Errorf("%s: wrong by %v after %d intervals, the limit is %v", c.name, worst, c.settle, limit)
		}
		if s.steps != c.steps {
			t.Errorf("%s: %d steps, want %d", c.name, s.steps, c.steps)
		}
	}
}

// TestServoJumps moves the reference back and forth, and takes it away for a time.
func TestServoJumps(t *testing.T) {
	s := newSimulation()
	for i, jump := range []time.Duration{6 * time.Second, -6 * time.Second, time.Hour, -time.Hour} {
		s.behind += jump
		stepped, err := s.compare()
		if stepped != jump || err != nil || s.behind != 0 || s.steps != i+1 {
			t.Errorf("jump by %v: stepped by %v, %v; still %v behind", jump, stepped, err, s.behind)
		}
	}
	s.behind += 300 * time.Millisecond
	s.pass(1)
	s.fail = errors.New("gone")
	if _, err := s.compare(); err == nil || s.rate != 0 {
		t.Errorf("without a reference: %v, a rate of %d ppm; want an error and 0", err, s.rate)
	}
	s.fail = nil
	s.pass(10)
	if s.steps != 4 || s.behind.Abs() > time.Millisecond {
		t.Errorf("%d steps and %v behind, want 4 and nothing", s.steps, s.behind)
	}
}

// TestClockOffset compares the system's clock with itself, and with one that has another epoch.
func TestClockOffset(t *testing.T) {
	if o, err := clockOffset(unix.CLOCK_REALTIME); err != nil || o.Abs() > time.Second {
		t.Errorf("%v, %v", o, err)
	}
	if o, err := clockOffset(unix.CLOCK_MONOTONIC); err != nil || o > -24*time.Hour {
		t.Errorf("%v, %v, want decades", o, err)
	}
	if _, err := clockOffset(unix.FdToClockID(99)); err == nil {
		t.Error("a clock that does not exist can be read")
	}
}
