package image

import (
	"cmp"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Limits bound the cost of a hostile image. The zero value of a field means its default.
type Limits struct {
	// Entries is the largest number of entries in all layers of a tree together. Each takes about 130 bytes
	// of memory. Their strings (names, targets of links, extended attributes) may take 256 bytes for each,
	// and 32 MiB.
	Entries int64
	// Bytes is the largest size of all layers together, decompressed. They are on disk while the tree is
	// open.
	Bytes int64
	// Window is the largest memory for the windows of the zstd layers that are read at a time, and so of
	// each.
	Window int64
}

// DefaultLimits are the defaults for fields that are zero: 260 MB of memory, 850 MB with the longest names,
// and 64 GiB of disk. The windows are four of the size that RFC 8878 recommends, or one of zstd -20.
var DefaultLimits = Limits{Entries: 2_000_000, Bytes: 64 << 30, Window: 32 << 20}

func (l Limits) orDefault() Limits {
	return Limits{
		Entries: cmp.Or(max(l.Entries, 0), DefaultLimits.Entries),
		Bytes:   cmp.Or(max(l.Bytes, 0), DefaultLimits.Bytes),
		Window:  cmp.Or(max(l.Window, 0), DefaultLimits.Window),
	}
}

const maxLayers = 1<<16 - 2 // a layer's number has 16 bits

// names is the largest memory for the strings of a tree, in bytes.
func (l Limits) names() int64 { return 32<<20 + 256*min(l.Entries, 1<<23) }

// links is the largest number of bytes of symbolic links that are followed. Honest layers name files where
// they are, and follow hardly any.
func (l Limits) links() int64 { return 32<<20 + 64*min(l.Entries, 1<<23) }

// budget is what may still be read of the layers of a tree.
type budget struct {
	limits         Limits
	entries, bytes atomic.Int64
	windows        *windowRoom
}

func newBudget(l Limits) *budget {
	b := &budget{limits: l, windows: newWindowRoom(l)}
	b.entries.Store(l.Entries)
	b.bytes.Store(l.Bytes)
	return b
}

// takeEntry is called for every entry of a layer, including those that replace or hide others.
func (b *budget) takeEntry() error {
	if b.entries.Add(-1) < 0 {
		return &LimitError{What: "entries", Limit: b.limits.Entries, Field: "Entries"}
	}
	return nil
}

func (b *budget) takeBytes(n int64) error {
	if b.bytes.Add(-n) < 0 {
		return &LimitError{What: "bytes, decompressed", Limit: b.limits.Bytes, Field: "Bytes"}
	}
	return nil
}

// Write takes the bytes that are written.
func (b *budget) Write(p []byte) (int, error) { return len(p), b.takeBytes(int64(len(p))) }

// windowRoom is the memory for the windows of the zstd layers that are read at a time.
type windowRoom struct {
	limit int64
	room  *semaphore.Weighted
}

func newWindowRoom(l Limits) *windowRoom {
	return &windowRoom{l.Window, semaphore.NewWeighted(l.Window)}
}

// LimitError says that an image exceeds a limit.
type LimitError struct {
	What  string // "entries", "bytes"
	Limit int64
	Field string // of [Limits] that raises the limit, "" if none does
}

func (e *LimitError) Error() string { return fmt.Sprintf("found more than %d %s", e.Limit, e.What) }
