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

// BenchmarkStart measures from the kernel's start of /init to the first instruction of the application, in a machine whose clock counts guest
// instructions: how far that clock went (with what PID 1 waited for), and how many instructions PID 1 and the application's process used; the
// peak of PID 1's memory, and the size of the program. NEB_REFERENCE_INIT may name other programs to measure, separated by colons, which
// know nitro-cli's mode. See bench/init.sh.
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
			b.ReportMetric(float64(got.clock), "clock-instructions")
			b.ReportMetric(float64(got.used-base.used), "used-instructions")
			b.ReportMetric(float64(got.kilobytes), "KiB-peak")
			b.ReportMetric(float64(len(c.init)), "bytes")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type reading struct{ clock, used, kilobytes int64 }

var (
	startLine = regexp.MustCompile(`^\[ *(\d+)\.(\d{6})\] Run /init`)
	meterLine = regexp.MustCompile(`^meter: clock=(\d+) used=(\d+) kilobytes=(\d+)`)
)

// measure starts a scene whose program is the meter, with a clock that counts instructions.
func measure(b *testing.B, s *scene) reading {
	s.qemu, s.accel = []string{"-icount", "shift=0,sleep=on"}, "tcg"
	s.want = []string{meterLine.String()}
	number := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	began := int64(0)
	for _, l := range s.run(b) {
		if m := startLine.FindStringSubmatch(l); m != nil {
			began = number(m[1])*1e9 + number(m[2])*1e3
		}
		if m := meterLine.FindStringSubmatch(l); m != nil {
			return reading{number(m[1]) - began, number(m[2]), number(m[3])}
		}
	}
	b.Fatal("the meter said nothing")
	return reading{}
}
