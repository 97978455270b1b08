// Command kernel is the part of bench/kernel.sh that shell would do badly: it joins fragments and counts guest
// instructions.
//
//	go run ./bench/kernel config ARCH            the fragments, joined, as KCONFIG_ALLCONFIG takes them
//	go run ./bench/kernel start BZIMAGE [WORD]   instructions from reset to the first act of PID 1, with WORDs added
//	                                             to the command line
//	go run ./bench/kernel console BZIMAGE [WORD] what the kernel printed on the way, with its times
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/kernel"
	"github.com/nitro-enclaves-bootstrap/neb/kernel/kerneltest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want: config ARCH | start BZIMAGE [WORD]... | console BZIMAGE [WORD]...")
	}
	switch args[0] {
	case "config":
		for _, f := range kernel.Fragments(args[1]) {
			fmt.Print(f.Text)
		}
		return nil
	case "start", "console":
		count, console, err := start(args[1], args[2:])
		if err != nil {
			return err
		}
		if args[0] == "console" {
			fmt.Print(console)
		}
		fmt.Println(count)
		return nil
	default:
		return fmt.Errorf("%q: want config, start or console", args[0])
	}
}

// start boots image under a clock that counts instructions and returns what PID 1 read from it first.
func start(image string, words []string) (count uint64, console string, err error) {
	dir, err := os.MkdirTemp("", "neb-bench-")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	probe, err := kerneltest.Build(ctx, "x86_64", dir)
	if err != nil {
		return 0, "", err
	}
	line := kernel.Cmdline("x86_64") + " probe.tsc " + strings.Join(words, " ")
	said, console, err := kerneltest.Run(ctx, kerneltest.Machine{Arch: "x86_64", Kernel: image, Cmdline: line, Count: true}, probe)
	if err != nil {
		return 0, console, err
	}
	for _, line := range said {
		if text, found := strings.CutPrefix(line, "tsc "); found {
			count, err := strconv.ParseUint(text, 10, 64)
			return count, console, err
		}
	}
	return 0, console, fmt.Errorf("%s: PID 1 did not read the time stamp counter:\n%s", image, console)
}
