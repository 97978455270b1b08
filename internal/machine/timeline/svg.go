package timeline

import (
	"bytes"
	"fmt"
	"html"
	"time"
)

// Sizes of the plot, in pixels.
const (
	plotWidth  = 900
	plotLabels = 350
	plotRow    = 26
	plotTop    = 64
)

// plotStyle makes the plot readable on light and dark backgrounds.
const plotStyle = `<style>
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
<rect class="ground" width="100%" height="100%"/>
`

// SVG draws the phases as bars against the time since power-on.
func (t *Timeline) SVG(title string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	spans := t.spans()
	end := time.Second / 10
	for _, s := range spans {
		if s.after {
			// The plot is about the start: it shows what follows for at most a quarter of the start's time.
			s.to = min(s.to, max(end, s.from)*5/4)
		}
		end = max(end, s.to)
	}
	bars := float64(plotWidth - plotLabels - 90)
	x := func(t time.Duration) float64 { return plotLabels + bars*t.Seconds()/end.Seconds() }
	bottom := plotTop + plotRow*len(spans)
	height := bottom + 40

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d"`,
		plotWidth, height, plotWidth, height)
	b.WriteString(` role="img" aria-label="phases of the start, in seconds since power-on">` + "\n" + plotStyle)
	fmt.Fprintf(&b, `<text x="16" y="28" font-size="16" font-weight="600">%s</text>
<text x="16" y="48" class="faint">from power-on, in seconds</text>
`, html.EscapeString(title))
	step := plotStep(end)
	for t := time.Duration(0); t <= end; t += step {
		fmt.Fprintf(&b, `<line class="line" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x(t), x(t), plotTop-4,
			bottom+4)
		fmt.Fprintf(&b, `<text class="faint" x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n",
			x(t), bottom+22, t.Seconds())
	}
	if len(spans) == 0 {
		fmt.Fprintf(&b, `<text x="16" y="%d">the console showed no phase of the start</text>`+"\n",
			plotTop+12)
	}
	for i, s := range spans {
		y := plotTop + plotRow*i
		class, indent := "phase", 16
		if s.part {
			class, indent = "part", 36
		}
		right := x(min(s.to, end))
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`, indent, y+17, html.EscapeString(s.label))
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/>`,
			class, x(s.from), y+5, max(1, right-x(s.from)), plotRow-10)
		fmt.Fprintf(&b, `<text class="faint value" x="%.1f" y="%d">%.3f s</text>`+"\n",
			right+6, y+17, (s.to - s.from).Seconds())
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// plotStep returns the distance of the grid lines, so that there are at most ten.
func plotStep(end time.Duration) time.Duration {
	for step := 10 * time.Millisecond; ; step *= 10 {
		for _, n := range []int64{1, 2, 5} {
			if d := time.Duration(n) * step; end/d < 10 {
				return d
			}
		}
	}
}
