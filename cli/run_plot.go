package cli

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/machine"
)

// A span is one bar of the plot: a phase of the start, from and to since power-on.
type span struct {
	name     string
	from, to time.Duration
	part     bool // of the phase above it
}

// landmarks are lines of the kernel that begin a part of its start, in their order. The part goes on until the next one found.
var landmarks = []struct{ text, name string }{
	{"Linux version", "early setup"},
	{"Calibrating delay loop", "processor"},
	{"Memory: ", "memory"},
	{"NET: Registered PF_NETLINK", "core services"},
	{"Unpacking initramfs", "drivers, unpacking of the ramdisks"},
	{"NET: Registered PF_ALG", "drivers and file systems"},
	{"NET: Registered PF_VSOCK", "last services"},
	{"Freeing unused kernel image", "freeing what only the start needed"},
}

// spans cuts the start into phases, as far as the marks and the console show them.
func (w *watcher) spans() []span {
	var all []span
	kernel, hasKernel := w.at(markKernel)
	init, hasInit := w.at(markInit)
	beat, hasBeat := w.at(string(machine.Heartbeat))
	word, hasWord := w.at(markApplication)
	off, hasOff := w.at(string(machine.Ended))

	add := func(ok bool, name string, from, to time.Duration) {
		if ok && to >= from {
			all = append(all, span{name: name, from: from, to: to})
		}
	}
	add(hasKernel, "QEMU, firmware, decompression", 0, kernel)
	add(hasKernel && hasInit, "kernel", kernel, init)
	if hasKernel && hasInit {
		all = append(all, w.kernelParts(kernel, init)...)
	}
	add(hasInit && hasBeat, "init, to the heartbeat", init, beat)
	add(hasBeat && hasWord, "init, to the application's first output", beat, word)
	add(hasWord && hasOff, "application", word, off)
	return all
}

// kernelParts cuts the kernel's own start by when its lines came: its own clock falls behind on a busy machine without KVM. What was written before
// the console was there comes at once.
func (w *watcher) kernelParts(start, end time.Duration) []span {
	var parts []span
	next := 0
	for _, l := range w.lines {
		if !l.print || l.since > end {
			continue
		}
		for i := next; i < len(landmarks); i++ {
			if !strings.Contains(l.text, landmarks[i].text) {
				continue
			}
			at := max(start, l.since)
			if n := len(parts); n > 0 {
				parts[n-1].to = at
			}
			parts = append(parts, span{name: landmarks[i].name, from: at, to: end, part: true})
			next = i + 1
			break
		}
	}
	return parts
}

// Sizes of the plot, in pixels.
const (
	plotWidth  = 900
	plotLabels = 300
	plotRow    = 26
	plotTop    = 64
)

// plot draws the start as an SVG: one bar a phase, against time since power-on. It reads in light and dark surroundings.
func (w *watcher) plot(title string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	spans := w.spans()
	end := time.Second / 10
	for _, s := range spans {
		end = max(end, s.to)
	}
	bars := float64(plotWidth - plotLabels - 90)
	x := func(t time.Duration) float64 { return plotLabels + bars*t.Seconds()/end.Seconds() }
	height := plotTop + plotRow*len(spans) + 40

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="where the time of the start went">
<style>
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #1f2328; } .faint { fill: #59636e; } .line { stroke: #d1d9e0; }
.phase { fill: #0969da; } .part { fill: #8cb9f0; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .line { stroke: #30363d; }
.phase { fill: #4493f8; } .part { fill: #274e80; }
}
</style>
<text x="16" y="28" font-size="16" font-weight="600">%s</text>
<text x="16" y="48" class="faint">from power-on, in seconds</text>
`, plotWidth, height, plotWidth, height, html.EscapeString(title))

	bottom := plotTop + plotRow*len(spans)
	step := plotStep(end)
	for t := time.Duration(0); t <= end; t += step {
		fmt.Fprintf(&b, `<line class="line" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="faint" x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n",
			x(t), x(t), plotTop-4, bottom+4, x(t), bottom+22, t.Seconds())
	}
	if len(spans) == 0 {
		fmt.Fprintf(&b, `<text x="16" y="%d">the console showed no step of the start</text>`+"\n", plotTop+12)
	}
	for i, s := range spans {
		y := plotTop + plotRow*i
		class, indent := "phase", 16
		if s.part {
			class, indent = "part", 36
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/><text class="faint" x="%.1f" y="%d">%.3f s</text>`+"\n",
			indent, y+17, html.EscapeString(s.name), class, x(s.from), y+5, max(1, x(s.to)-x(s.from)), plotRow-10, x(s.to)+6, y+17, (s.to - s.from).Seconds())
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// plotStep is the distance of the lines of time: at most ten of them.
func plotStep(end time.Duration) time.Duration {
	for step := 10 * time.Millisecond; ; step *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if end/(n*step) < 10 {
				return n * step
			}
		}
	}
}
