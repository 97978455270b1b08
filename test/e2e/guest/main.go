// Command guest is the application inside the enclaves that the end-to-end tests boot. Its first argument says
// what it does; what it finds it prints, one "key: value" a line, for the test to read on the console.
package main

import (
	"fmt"
	"os"
)

// acts is what the guest can do, by the name that the test gives as its first argument.
var acts = map[string]func(args []string) error{
	"hello": hello,
}

func main() {
	if len(os.Args) < 2 || acts[os.Args[1]] == nil {
		fmt.Printf("guest: unknown act %q\n", os.Args[1:])
		os.Exit(99)
	}
	if err := acts[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Printf("guest: %s: %v\n", os.Args[1], err)
		os.Exit(98)
	}
}

// hello prints a greeting and who the program runs as.
func hello([]string) error {
	fmt.Printf("hello: from uid %d in %s\n", os.Getuid(), mustWd())
	return nil
}

func mustWd() string {
	dir, err := os.Getwd()
	if err != nil {
		return err.Error()
	}
	return dir
}
