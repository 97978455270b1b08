// Command sh stands in for a toolchain in tests: it runs scripts of a few words of its own.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

var words = map[string]func(arg string) error{
	"#":    func(string) error { return nil },
	"echo": func(arg string) error { fmt.Println(arg); return nil },
	"copy": func(arg string) error { // copy FROM TO
		from, to, _ := strings.Cut(arg, " ")
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, data, 0o644)
		}
		return err
	},
	"link": func(arg string) error { // link TARGET NAME
		target, name, _ := strings.Cut(arg, " ")
		return os.Symlink(target, name)
	},
	"env": func(arg string) error {
		return os.WriteFile(arg, []byte(strings.Join(os.Environ(), "\n")), 0o644)
	},
	"fill":  fill,
	"sleep": func(arg string) error { d, err := time.ParseDuration(arg); time.Sleep(d); return err },
	"exit":  func(arg string) error { n, _ := strconv.Atoi(arg); os.Exit(n); return nil },
}

// fill writes to a file until nothing more goes in.
func fill(arg string) error {
	f, err := os.Create(arg)
	for block := make([]byte, 1<<16); err == nil; {
		_, err = f.Write(block)
	}
	return err
}

func main() {
	script, err := os.Open(os.Args[len(os.Args)-1])
	if err != nil {
		fmt.Println(err)
		os.Exit(127)
	}
	for lines := bufio.NewScanner(script); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		if word == "" {
			continue
		}
		do := words[word]
		if do == nil {
			fmt.Printf("%s: not found\n", word)
			os.Exit(127)
		}
		if err := do(arg); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}
