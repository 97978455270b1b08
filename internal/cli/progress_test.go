package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

func TestProgressInLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	now := time.Unix(0, 0)
	p.now = func() time.Time { return now }
	fetch := progress.Event{Stage: "fetch", Unit: "bytes", Total: 93_000_000}
	for i := range int64(4) {
		fetch.Done = i * 31_000_000
		p.event(fetch)
		now = now.Add(8 * time.Second)
	}
	p.event(fetch) // done, said twice
	p.event(progress.Event{Stage: "fetch", Note: "mirror.example.org: answered 500"})
	for done := range int64(3) {
		p.event(progress.Event{Stage: "compile kernel x86_64", Done: done, Total: 1000, Unit: "objects"})
		now = now.Add(time.Second)
	}
	now = now.Add(time.Minute) // one object takes its time
	p.tick()
	now = now.Add(time.Minute)
	p.tick() // nothing new
	p.close()
	p.tick()
	expected := `fetch: 0.0 of 93.0 MB (0%)
fetch: 62.0 of 93.0 MB (66%)
fetch: 93.0 MB in 24s
mirror.example.org: answered 500
compile kernel x86_64: 0 of 1000 objects (0%)
compile kernel x86_64: 2 of 1000 objects (0%)
compile kernel x86_64: 2 of 1000 objects (0%) in 2m3s
`
	if out.String() != expected {
		t.Errorf("expected\n%s\nfound\n%s", expected, out.String())
	}
}

func TestProgressAsBar(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.bar = true
	p.event(progress.Event{Stage: "unpack", Done: 1, Total: 4, Unit: "packages"})
	p.event(progress.Event{Stage: "unpack", Done: 3, Total: 6, Unit: "packages"}) // the total was an estimate
	p.event(progress.Event{Stage: "unpack", Note: "something to know"})
	p.event(progress.Event{Stage: "unpack", Done: 6, Total: 6, Unit: "packages"})
	p.close()
	for _, expected := range []string{"unpack", "\r", "something to know\n", "unpack: 6 packages in 0s\n"} {
		if !strings.Contains(out.String(), expected) {
			t.Errorf("expected %q in %q", expected, out.String())
		}
	}
}
