//go:build linux

package network

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// A pcap writes frames in the format of libpcap (draft-ietf-opsawg-pcap): version 2.4, microseconds,
// Ethernet. A nil pcap writes nothing. After an error it stops.
type pcap struct {
	mu     sync.Mutex
	w      io.Writer
	begun  bool
	failed bool
}

func (p *pcap) add(frame []byte) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed {
		return
	}
	le := binary.LittleEndian
	var b []byte
	if !p.begun {
		for _, n := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 1<<16 - 1, 1} {
			b = le.AppendUint32(b, n)
		}
		p.begun = true
	}
	now := time.Now()
	for _, n := range []int{int(now.Unix()), now.Nanosecond() / 1000, len(frame), len(frame)} {
		b = le.AppendUint32(b, uint32(n))
	}
	_, err := p.w.Write(append(b, frame...))
	p.failed = err != nil
}
