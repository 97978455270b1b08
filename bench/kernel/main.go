// Command kernel is the part of bench/kernel.sh that shell would do badly: it joins fragments and counts
// guest instructions.
//
//	go run ./bench/kernel config ARCH            the fragments, joined, as KCONFIG_ALLCONFIG takes them
//	go run ./bench/kernel start BZIMAGE [WORD]   instructions from reset to the first act of PID 1, with
//	                                             WORDs added to the command line
//	go run ./bench/kernel console BZIMAGE [WORD] what the kernel printed on the way, with its times
//	go run ./bench/kernel work BZIMAGE [WORD]    instructions that some work costs, of kernel and program
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/kernelprobe"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// patience is more than the slowest start or work takes, several times over.
const patience = 10 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want: config ARCH | start|console|work BZIMAGE [WORD]...")
	}
	switch args[0] {
	case "config":
		for _, f := range kernel.Fragments(args[1]) {
			fmt.Print(f.Text)
		}
		return nil
	case "start", "console":
		said, console, err := start(args[1], append(args[2:], "probe.tsc"))
		if err != nil {
			return err
		}
		if args[0] == "console" {
			fmt.Print(console)
			return nil
		}
		return tell(said, "tsc ")
	case "work":
		said, _, err := start(args[1], append(args[2:], "probe.work"))
		if err != nil {
			return err
		}
		return tell(said, "cost ")
	default:
		return fmt.Errorf("%q: want config, start, console or work", args[0])
	}
}

// start boots image with the probe as PID 1, under a clock that counts instructions.
func start(image string, words []string) (said []string, console string, err error) {
	dir, err := os.MkdirTemp("", "neb-bench-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(dir)
	// A kernel that does not come to PID 1 on this machine says so by silence: the reference's is one.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	probe, err := kernelprobe.Build(ctx, "x86_64", dir)
	if err != nil {
		return nil, "", err
	}
	return kernelprobe.Run(ctx, kernelprobe.Machine{
		QEMU:    os.Getenv("QEMU"),
		Arch:    "x86_64",
		Kernel:  image,
		Cmdline: kernel.Cmdline("x86_64") + " " + strings.Join(words, " "),
		Count:   true,
	}, probe)
}

// tell prints what the probe said after prefix, a line each.
func tell(said []string, prefix string) error {
	found := false
	for _, line := range said {
		if text, ok := strings.CutPrefix(line, prefix); ok {
			fmt.Println(text)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("the probe said nothing that begins with %q: %q", prefix, said)
	}
	return nil
}
