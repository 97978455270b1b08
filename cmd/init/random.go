//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const (
	randomDeadline = 5 * time.Second
	rngCurrent     = "/sys/class/misc/hw_random/rng_current"
	nsmRNG         = "nsm-hwrng" // drivers/misc/nsm.c
)

// waitForRandom makes the NSM the kernel's source of random numbers, and waits until the kernel's pool is
// filled, because applications often generate keys first. It does nothing without an NSM.
func (e *enclave) waitForRandom() error {
	if !exists(contract.NSMDevice) {
		return nil
	}
	b, err := readFile(rngCurrent, 4096)
	if err != nil {
		warn(fail("read", rngCurrent, err).because("the kernel lacks CONFIG_HW_RANDOM"))
	} else if strings.TrimSpace(b) != nsmRNG {
		if err := writeFile(rngCurrent, nsmRNG, 0); err != nil {
			warn(fail("write "+nsmRNG+" to", rngCurrent, err))
		}
	}
	if err := untilFilled(func() (int, error) {
		var one [1]byte
		return unix.Getrandom(one[:], unix.GRND_NONBLOCK)
	}, randomDeadline); err != nil {
		warn(err)
	}
	return nil
}

// untilFilled waits until getrandom, which must not block, returns a byte: the kernel's pool is filled then.
func untilFilled(getrandom func() (int, error), limit time.Duration) error {
	for began := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		n, err := getrandom()
		if n == 1 {
			return nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			return fail("read random numbers", "", err)
		}
		if time.Since(began) > limit {
			return fail("wait for random numbers", "",
				errors.New("the kernel's pool was not filled within "+limit.String()))
		}
	}
}
