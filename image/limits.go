package image

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Limits bound what a hostile image can cost. The zero value of a field means its default.
type Limits struct {
	// Entries is how many entries all layers together may have. Each costs about a hundred bytes of memory; the strings of all
	// (names, targets of links, extended attributes) may take 256 bytes for each, and 32 MiB.
	Entries int64
	// Bytes is how much all layers together may inflate to, which is what is needed on disk meanwhile.
	Bytes int64
	// Window is how much memory the windows of zstd layers may take, of all that are read at one time and so of each.
	Window int64
}

// DefaultLimits are those in force where nothing else is said: 210 MB of memory, 800 MB with the longest names, and 64 GiB of
// disk. The windows are four of those that RFC 8878 advises, or one of zstd -20.
var DefaultLimits = Limits{Entries: 2_000_000, Bytes: 64 << 30, Window: 32 << 20}

const maxLayers = 1<<16 - 2 // a layer's number has 16 bits

// names is how many bytes of memory the strings of a tree may take.
func (l Limits) names() int64 { return 32<<20 + 256*min(l.Entries, 1<<23) }

// links is how many bytes of symbolic links may be followed. Honest layers name files where they are, and follow hardly any.
func (l Limits) links() int64 { return 32<<20 + 64*min(l.Entries, 1<<23) }

// budget is what may still be read of the layers of a tree, in all of them together.
type budget struct {
	limits         Limits
	entries, bytes atomic.Int64
	windows        *windowRoom
}

// windowRoom is the memory for the windows of the zstd layers that are read at one time.
type windowRoom struct {
	limit int64
	room  *semaphore.Weighted
}

func newWindows(l Limits) *windowRoom { return &windowRoom{l.Window, semaphore.NewWeighted(l.Window)} }

func newBudget(l Limits) *budget {
	b := &budget{limits: l, windows: newWindows(l)}
	b.entries.Store(l.Entries)
	b.bytes.Store(l.Bytes)
	return b
}

// takeEntry is called for every entry of a layer, also for one that replaces or hides another.
func (b *budget) takeEntry() error {
	if b.entries.Add(-1) < 0 {
		return &LimitError{What: "entries", Limit: b.limits.Entries, Field: "Entries"}
	}
	return nil
}

// Write takes the bytes that are written.
func (b *budget) Write(p []byte) (int, error) { return len(p), b.takeBytes(int64(len(p))) }

func (b *budget) takeBytes(n int64) error {
	if b.bytes.Add(-n) < 0 {
		return &LimitError{What: "bytes, decompressed", Limit: b.limits.Bytes, Field: "Bytes"}
	}
	return nil
}

func (l Limits) orDefault() Limits {
	if l.Entries <= 0 {
		l.Entries = DefaultLimits.Entries
	}
	if l.Bytes <= 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Window <= 0 {
		l.Window = DefaultLimits.Window
	}
	return l
}

// LimitError is a limit that an image went over.
type LimitError struct {
	What  string // "entries", "bytes"
	Limit int64
	Found int64  // 0 where it is not known how much there is
	Field string // of [Limits] that raises it, "" where none does
}

func (e *LimitError) Error() string {
	if e.Found != 0 {
		return fmt.Sprintf("%d %s, at most %d: if this image is to be trusted, raise the limit", e.Found, e.What, e.Limit)
	}
	return fmt.Sprintf("more than %d %s: if this image is to be trusted, raise the limit", e.Limit, e.What)
}
