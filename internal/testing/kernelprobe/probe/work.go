package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// works are what kernels are compared by: with a clock that counts instructions, each costs the same at every
// run.
var works = []struct {
	name string
	do   func() error
}{
	{"100,000 system calls", func() error {
		for range 100_000 {
			unix.Getppid()
		}
		return nil
	}},
	{"64 MiB touched and given back, twice", func() error {
		for range 2 {
			memory, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE,
				unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return err
			}
			for at := 0; at < len(memory); at += os.Getpagesize() {
				memory[at] = 1
			}
			if err := unix.Munmap(memory); err != nil {
				return err
			}
		}
		return nil
	}},
	{"2,000 files of 16 KiB written, read and removed", func() error {
		body := make([]byte, 16<<10)
		for i := range 2000 {
			name := fmt.Sprint("/file-", i)
			if err := os.WriteFile(name, body, 0o600); err != nil {
				return err
			}
			if _, err := os.ReadFile(name); err != nil {
				return err
			}
			if err := os.Remove(name); err != nil {
				return err
			}
		}
		return nil
	}},
	{"20,000 times 4 KiB through a Unix socket", func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		body := make([]byte, 4<<10)
		for range 20_000 {
			if _, err := unix.Write(pair[0], body); err != nil {
				return err
			}
			if _, err := unix.Read(pair[1], body); err != nil {
				return err
			}
		}
		return nil
	}},
	{"100 programs started and awaited", func() error {
		for range 100 {
			if err := exec.Command("/init", "nothing").Run(); err != nil {
				return err
			}
		}
		return nil
	}},
}

// work does them all and says what each cost.
func work() {
	for _, w := range works {
		start := tsc()
		if err := w.do(); err != nil {
			fmt.Printf("probe: fail %s: %v\n", w.name, err)
			continue
		}
		fmt.Printf("probe: cost %s: %d\n", w.name, tsc()-start)
	}
}
