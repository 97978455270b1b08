//go:build linux && amd64

package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

var meter once

// meterProgram is testdata/meter.
func meterProgram(t testing.TB) []byte {
	return meter.build(t, eif.X86_64, "-ldflags=-s -w -E meterstart", "./testdata/meter")
}

// BenchmarkStart measures from the beginning of PID 1's program to the first instruction of the application,
// in a machine with one processor whose clock counts guest instructions: all that the machine executed,
// whoever for; of that, what PID 1 and the application's process used; how far the clock went, with what was
// waited for; the peak of PID 1's memory, and the size of the program. NEB_REFERENCE_INIT may name other
// programs to measure, separated by colons, which know nitro-cli's mode. See bench/init.sh.
func BenchmarkStart(b *testing.B) {
	application := program("meter", meterProgram(b))
	application.mode = initramfs.TypeFile | 0o4755 // it reads what root alone may
	type candidate struct {
		name    string
		init    []byte
		app     []entry
		cmdline string
	}
	ours, nitroCLI := initProgram(b, eif.X86_64), plain("/meter\n", "A=b\n", application)
	candidates := []candidate{
		{"nitro-cli", ours, nitroCLI, ""},
		{"nitro-cli,cgroup-v1", ours, nitroCLI, "neb.cgroup=v1"},
		{"structured", ours, described(b,
			contract.Description{Cmd: []string{"/meter"}, User: "1000", Complete: true}, application), ""},
	}
	for _, path := range strings.FieldsFunc(os.Getenv("NEB_REFERENCE_INIT"),
		func(r rune) bool { return r == ':' }) {
		content, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		candidates = append(candidates,
			candidate{path[strings.LastIndexByte(path, '/')+1:], content, nitroCLI, ""})
	}
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			var got reading
			for range b.N {
				got = measure(b, &scene{
					first:  []entry{program("init", application.body), program("measured", c.init)},
					second: c.app, cmdline: c.cmdline,
				})
			}
			b.ReportMetric(float64(got.executed), "executed-instructions")
			b.ReportMetric(float64(got.used), "used-instructions")
			b.ReportMetric(float64(got.clock), "clock-ns")
			b.ReportMetric(float64(got.kilobytes), "KiB-peak")
			b.ReportMetric(float64(len(c.init)), "bytes")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type reading struct{ clock, executed, used, kilobytes int64 }

var meterLine = regexp.MustCompile(`^meter: clock=(\d+) executed=(\d+) used=(\d+) kilobytes=(\d+)`)

// measure starts a scene whose program is the meter, with a clock that counts instructions.
func measure(b *testing.B, s *scene) reading {
	s.qemu, s.accel, s.cpus = []string{"-icount", "shift=0,sleep=on"}, "tcg", 1
	s.want = []string{meterLine.String()}
	for _, l := range s.run(b) {
		if m := meterLine.FindStringSubmatch(l); m != nil {
			var r reading
			for i, at := range []*int64{&r.clock, &r.executed, &r.used, &r.kilobytes} {
				*at, _ = strconv.ParseInt(m[i+1], 10, 64)
			}
			return r
		}
	}
	b.Fatal("the meter said nothing")
	return reading{}
}
