//go:build linux && amd64

package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/app"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

var meter once

// meterProgram is testdata/meter.
func meterProgram(t testing.TB) []byte {
	return meter.build(t, eif.X86_64, "-ldflags=-s -w -E meterstart", "./testdata/meter")
}

// BenchmarkStart counts the guest instructions from the kernel's start of /init to the first instruction of the application, the peak
// of PID 1's memory, and the size of the program. NEB_REFERENCE_INIT may name other programs to measure, separated by colons, which know
// nitro-cli's mode. See bench/init.sh.
func BenchmarkStart(b *testing.B) {
	meter := meterProgram(b)
	application := program("meter", meter)
	base := measure(b, &scene{first: []entry{program("init", meter)}, second: plain("/meter\n", "A=b\n", application)})
	type candidate struct {
		name string
		init []byte
		app  []entry
	}
	nitroCLI := plain("/meter\n", "A=b\n", application)
	candidates := []candidate{
		{"nitro-cli", initProgram(b, eif.X86_64), nitroCLI},
		{"structured", initProgram(b, eif.X86_64), described(b, app.Description{Cmd: []string{"/meter"}, User: "1000", Complete: true}, application)},
	}
	for _, path := range strings.FieldsFunc(os.Getenv("NEB_REFERENCE_INIT"), func(r rune) bool { return r == ':' }) {
		content, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		candidates = append(candidates, candidate{path[strings.LastIndexByte(path, '/')+1:], content, nitroCLI})
	}
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			var got reading
			for range b.N {
				got = measure(b, &scene{first: []entry{program("init", c.init)}, second: c.app})
			}
			b.ReportMetric(float64(got.instructions-base.instructions), "instructions")
			b.ReportMetric(float64(got.kilobytes), "KiB-peak")
			b.ReportMetric(float64(len(c.init)), "bytes")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type reading struct{ instructions, kilobytes int64 }

// measure starts a scene whose program is the meter, with a clock that counts instructions.
func measure(b *testing.B, s *scene) reading {
	s.qemu, s.accel = []string{"-icount", "shift=0,sleep=on"}, "tcg"
	pattern := regexp.MustCompile(`^meter: instructions=(\d+) kilobytes=(\d+)`)
	s.want = []string{pattern.String()}
	for _, l := range s.run(b) {
		if m := pattern.FindStringSubmatch(l); m != nil {
			var r reading
			r.instructions, _ = strconv.ParseInt(m[1], 10, 64)
			r.kilobytes, _ = strconv.ParseInt(m[2], 10, 64)
			return r
		}
	}
	b.Fatal("the meter said nothing")
	return reading{}
}
