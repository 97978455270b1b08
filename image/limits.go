package image

import "fmt"

// Limits bound what a hostile image can cost. The zero value of a field means its default.
type Limits struct {
	// Entries is how many names all layers together may bring; each costs about a hundred bytes of memory.
	Entries int64
	// Bytes is how much all layers together may inflate to, which is what is needed on disk meanwhile.
	Bytes int64
}

// DefaultLimits are those in force where nothing else is said: 210 MB of memory, and 64 GiB of disk.
var DefaultLimits = Limits{Entries: 2_000_000, Bytes: 64 << 30}

const (
	maxLayers   = 1<<16 - 2 // a layer's number has 16 bits
	maxManifest = 4 << 20   // bytes of a manifest or index; registries take no larger ones
	maxConfig   = 8 << 20   // bytes of an image configuration
)

func (l Limits) orDefault() Limits {
	if l.Entries <= 0 {
		l.Entries = DefaultLimits.Entries
	}
	if l.Bytes <= 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	return l
}

// LimitError is a limit that an image went over.
type LimitError struct {
	What  string // "entries", "bytes"
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("more than %d %s: if this image is to be trusted, raise the limit", e.Limit, e.What)
}
