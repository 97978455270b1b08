//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// switches are the options of the kernel command line that are meant for init. They are measured with it.
type switches struct {
	cgroupV1  bool
	halt      bool
	grace     time.Duration
	heartbeat time.Duration // from init's start
	linger    time.Duration
	net       time.Duration // from init's start
}

var defaults = switches{grace: 10 * time.Second, heartbeat: 20 * time.Second, linger: 30 * time.Second,
	net: 10 * time.Second}

// switchTable has a row for each switch; set reports whether the value is valid.
var switchTable = []struct {
	key  string
	want string
	set  func(*switches, string) bool
}{
	{contract.SwitchCgroup, "v1 or v2", func(s *switches, v string) bool {
		return oneOf(v, "v2", "v1", &s.cgroupV1)
	}},
	{contract.SwitchEnd, "reboot or halt", func(s *switches, v string) bool {
		return oneOf(v, "reboot", "halt", &s.halt)
	}},
	{contract.SwitchGrace, "a time like 10s", func(s *switches, v string) bool {
		return duration(v, &s.grace)
	}},
	{contract.SwitchHeartbeat, "a time like 20s", func(s *switches, v string) bool {
		return duration(v, &s.heartbeat)
	}},
	{contract.SwitchNet, "a time like 10s", func(s *switches, v string) bool {
		return duration(v, &s.net)
	}},
	{contract.SwitchLinger, "a time like 30s", func(s *switches, v string) bool {
		return duration(v, &s.linger)
	}},
}

func oneOf(v, no, yes string, at *bool) bool {
	*at = v == yes
	return v == yes || v == no
}

// duration accepts at most an hour: a longer time is probably a mistake.
func duration(v string, at *time.Duration) bool {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > time.Hour {
		return false
	}
	*at = d
	return true
}

// parse reads the switches in options. It continues after an error, so that the others apply to the exit that
// follows.
func (s *switches) parse(options []option) error {
	var first error
	keep := func(what, expected string) {
		if first == nil {
			first = &failure{doing: "kernel command line", what: what, err: errors.New(expected)}
		}
	}
next:
	for _, o := range options {
		if !strings.HasPrefix(o.key, contract.SwitchPrefix) {
			continue
		}
		known := ""
		for _, t := range switchTable {
			if known += " " + t.key; t.key != o.key {
				continue
			}
			was := *s
			if !t.set(s, o.value) {
				*s = was
				keep(o.key+"="+o.value, "expected "+t.want)
			}
			continue next
		}
		keep(o.key, "unknown switch, expected one of"+known)
	}
	return first
}

// option is one word of the kernel command line.
type option struct {
	key   string
	value string // without quotes
	bare  bool   // there was no '='
}

// options splits a kernel command line as the kernel does (lib/cmdline.c, next_arg): at white space outside
// double quotes, which may enclose the word or the value. Words after "--" are arguments of init, not
// options.
func options(line string) []option {
	var all []option
	for i := 0; ; {
		for i < len(line) && space(line[i]) {
			i++
		}
		if i == len(line) {
			return all
		}
		from, quoted := i, false
		for i < len(line) && (quoted || !space(line[i])) {
			if line[i] == '"' {
				quoted = !quoted
			}
			i++
		}
		word := line[from:i]
		if word == "--" {
			return all
		}
		if strings.HasPrefix(word, `"`) {
			word = strings.TrimSuffix(word[1:], `"`)
		}
		key, value, ok := strings.Cut(word, "=")
		if strings.HasPrefix(value, `"`) {
			value = strings.TrimSuffix(value[1:], `"`)
		}
		all = append(all, option{key: key, value: value, bare: !ok})
	}
}

func space(c byte) bool {
	return c == ' ' || '\t' <= c && c <= '\r' || c == 0xa0 // isspace of the kernel
}

// parameters returns the parameters of a module: "a=1 b" for "name.a=1 name.b". In names of modules and
// parameters, dash and underscore are equal.
func parameters(module string, all []option) string {
	var b strings.Builder
	for _, o := range all {
		name, param, ok := strings.Cut(o.key, ".")
		if !ok || underscored(name) != underscored(module) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(param)
		if o.bare {
			continue
		}
		b.WriteByte('=')
		if strings.ContainsAny(o.value, " \t\n\v\f\r") {
			b.WriteString(`"` + o.value + `"`)
		} else {
			b.WriteString(o.value)
		}
	}
	return b.String()
}

func underscored(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readCommandLine mounts /proc, which the new root inherits, and reads the switches.
func (e *enclave) readCommandLine() error {
	at := "/proc"
	missing := mkdir(at, 0o555)
	if missing != nil {
		at = "/dev" // inodes ran out, for example: neb.linger and neb.end still apply to the end that follows
	}
	if err := unix.Mount("proc", at, "proc", procFlags, ""); err != nil && err != unix.EBUSY {
		return fail("mount", at, err)
	}
	line, err := readFile(at+"/cmdline", 1<<16)
	if err != nil {
		return fail("read", at+"/cmdline", err)
	}
	e.options = options(line)
	if err := e.switches.parse(e.options); err != nil {
		return err
	}
	return missing
}
