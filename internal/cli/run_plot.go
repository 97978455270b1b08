package cli

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
)

// A span is one bar of the plot: a phase of the start, from and to since power-on.
type span struct {
	name     string
	from, to time.Duration
	part     bool // of the phase above it
	after    bool // after the start: it may last for days
}

// A landmark is a line of the kernel that begins a part of a phase. The part goes on until the next one found, or the end of the phase.
type landmark struct{ text, name string }

// Landmarks in their order. Some are lines that the kernel writes because of what init does.
var (
	kernelLandmarks = []landmark{
		{"Linux version", "early setup"},
		{"Calibrating delay loop", "processor"},
		{"Freeing SMP alternatives", "timers"},
		{"smpboot: CPU0", "other processors"},
		{"Memory: ", "memory"},
		{"NET: Registered PF_NETLINK", "core services"},
		{"Unpacking initramfs", "file systems"},
		{"NET: Registered PF_ALG", "drivers"},
		{"NET: Registered PF_VSOCK", "last services, and waiting for the ramdisks"},
		{"Freeing unused kernel image", "freeing what only the start needed"},
	}
	initLandmarks = []landmark{
		{"Run /init", "start of init"},
		{"nsm: ", "driver of the secure module, call to the parent"},
	}
	rootLandmarks = []landmark{
		{"loop0: detected capacity change", "root (erofs)"},
		{"erofs: (device loop0): mounted", "mounts, network, user, start"},
	}
)

// The ramdisks are unpacked beside the other work of the kernel, between these two lines.
const (
	unpackingStarts = "Unpacking initramfs"
	unpackingEnds   = "Freeing initrd memory"
)

// spans cuts the start into phases, as far as the marks and the console show them.
func (w *watcher) spans() []span {
	var all []span
	kernel, hasKernel := w.at(markKernel)
	init, hasInit := w.at(markInit)
	beat, hasBeat := w.at(string(machine.Heartbeat))
	word, hasWord := w.at(markApplication)
	off, hasOff := w.at(string(machine.Ended))

	add := func(ok bool, name string, from, to time.Duration, parts ...landmark) {
		if ok && to >= from {
			all = append(append(all, span{name: name, from: from, to: to}), w.parts(from, to, parts)...)
		}
	}
	add(hasKernel, "QEMU, firmware, kernel up to its console", 0, kernel)
	add(hasKernel && hasInit, "kernel", kernel, init, kernelLandmarks...)
	if from, ok := w.lineAt(unpackingStarts); ok && hasInit {
		if to, ok := w.lineAt(unpackingEnds); ok && to <= init {
			all = append(all, span{name: "unpacking of the ramdisks, beside the above", from: from, to: to, part: true})
		}
	}
	add(hasInit && hasBeat, "init, to the heartbeat", init, beat, initLandmarks...)
	add(!hasInit && hasBeat, "to the heartbeat", 0, beat)
	add(hasBeat && hasWord, "init, to the application's first output", beat, word, rootLandmarks...)
	started := len(all)
	add(hasWord && hasOff, "application", word, off)
	add(hasBeat && !hasWord && hasOff, "after the heartbeat, in silence", beat, off)
	for i := range all[started:] {
		all[started+i].after = true
	}
	return all
}

// lineAt is when the first line of the kernel with text in it came.
func (w *watcher) lineAt(text string) (time.Duration, bool) {
	for _, l := range w.lines {
		if l.print && strings.Contains(l.text, text) {
			return l.since, true
		}
	}
	return 0, false
}

// parts cuts a phase by when lines of the kernel came: its own clock falls behind on a busy machine without KVM. What was written before
// the console was there comes at once.
func (w *watcher) parts(start, end time.Duration, landmarks []landmark) []span {
	var parts []span
	for _, mark := range landmarks {
		at, ok := w.lineAt(mark.text)
		if !ok || at > end {
			continue
		}
		at = max(start, at)
		if n := len(parts); n > 0 {
			if at < parts[n-1].from {
				continue // not in the order of other kernels
			}
			parts[n-1].to = at
		}
		parts = append(parts, span{name: mark.name, from: at, to: end, part: true})
	}
	return parts
}

// printPhases prints what the plot shows.
func (w *watcher) printPhases() {
	for _, s := range w.spans() {
		length := seconds(s.to - s.from)
		w.print(runEvent{Event: "phase", Time: seconds(s.from), Duration: &length, Text: &s.name, Part: s.part})
	}
}

// Sizes of the plot, in pixels.
const (
	plotWidth  = 900
	plotLabels = 350
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
		if s.after {
			// The start is what the plot is about; of what follows as much as is a quarter of it.
			s.to = min(s.to, max(end, s.from)*5/4)
		}
		end = max(end, s.to)
	}
	bars := float64(plotWidth - plotLabels - 90)
	x := func(t time.Duration) float64 { return plotLabels + bars*t.Seconds()/end.Seconds() }
	height := plotTop + plotRow*len(spans) + 40

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="where the time of the start went">
<style>
svg { font: 13px system-ui, sans-serif; }
.ground { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; } .line { stroke: #d1d9e0; }
.value { paint-order: stroke; stroke: #ffffff; stroke-width: 6px; }
.phase { fill: #0969da; } .part { fill: #8cb9f0; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .line { stroke: #30363d; }
.value { stroke: #0d1117; }
.phase { fill: #4493f8; } .part { fill: #2f5f9e; }
}
</style>
<rect class="ground" width="100%%" height="100%%"/>
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
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/><text class="faint value" x="%.1f" y="%d">%.3f s</text>`+"\n",
			indent, y+17, html.EscapeString(s.name), class, x(s.from), y+5, max(1, x(min(s.to, end))-x(s.from)), plotRow-10, x(min(s.to, end))+6, y+17, (s.to - s.from).Seconds())
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// plotStep is the distance of the lines of time: at most ten of them.
func plotStep(end time.Duration) time.Duration {
	for step := 10 * time.Millisecond; ; step *= 10 {
		for _, n := range []int64{1, 2, 5} {
			if d := time.Duration(n) * step; end/d < 10 {
				return d
			}
		}
	}
}
