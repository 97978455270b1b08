package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"
)

// A ring is a split virtqueue (specification, 2.7) seen from the device's side. Everything that the driver writes
// is read once and checked; the caller holds the device's lock.
type ring struct {
	size  uint16 // descriptors, a power of two
	desc  []byte // 16 bytes a descriptor: address u64, length u32, flags u16, next u16
	avail []byte // flags u16, index u16, heads u16 each, used_event u16
	used  []byte // flags u16, index u16, {head u32, length u32} each, avail_event u16

	next      uint16 // the available entry that comes next
	done      uint16 // our index in used
	signalled uint16 // done when it was last decided whether to tell the driver
	eventIdx  bool   // VIRTIO_RING_F_EVENT_IDX was negotiated

	call *os.File // tells the driver; nil where it does not want to be told
}

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	descSize     = 16
	maxRingSize  = 32768
	availNoEvent = 1 // VRING_AVAIL_F_NO_INTERRUPT: the driver does not want to be told
	usedNoNotify = 1 // VRING_USED_F_NO_NOTIFY: the device does not want to be told
)

// A chain is one buffer of the driver: parts to read, then parts to write.
type chain struct {
	head        uint16
	out, in     [][]byte // slices of the enclave's memory; out for the device to read
	outLen, len uint64   // bytes in out; bytes in in
}

// place sets where the ring is. The three areas must be 4-byte aligned, stricter than the specification is for avail (2), because
// flags and index are read as one word; every driver places it behind the descriptors, which gives 16.
func (r *ring) place(desc, avail, used []byte) error {
	n := int(r.size)
	if n == 0 || n > maxRingSize || n&(n-1) != 0 {
		return fmt.Errorf("ring of %d descriptors: want a power of two up to %d", n, maxRingSize)
	}
	if len(desc) < n*descSize || len(avail) < availSize(n) || len(used) < usedSize(n) {
		return errors.New("ring lies outside of the enclave's memory")
	}
	for _, area := range [][]byte{desc, avail, used} {
		if uintptr(unsafe.Pointer(&area[0]))%4 != 0 {
			return errors.New("ring is not aligned to 4 bytes")
		}
	}
	r.desc, r.avail, r.used = desc, avail, used
	return nil
}

// The sizes of the two areas with the event index at their ends; avail is rounded up to a word, to read that index as one.
func availSize(n int) int { return 4 + 2*n + 4 }
func usedSize(n int) int  { return 4 + 8*n + 2 }

func word(area []byte, offset int) *uint32 { return (*uint32)(unsafe.Pointer(&area[offset])) }

// available is how many buffers the driver has given and the device not yet taken.
func (r *ring) available() (uint16, error) {
	n := uint16(atomic.LoadUint32(word(r.avail, 0))>>16) - r.next
	if n > r.size {
		return 0, fmt.Errorf("ring of %d descriptors has %d available", r.size, n)
	}
	return n, nil
}

// take reads the next available buffer into c and returns whether there was one. An error means that the driver wrote what
// no driver may write.
func (r *ring) take(m memory, c *chain) (bool, error) {
	n, err := r.available()
	if n == 0 || err != nil {
		return false, err
	}
	slot := int(r.next & (r.size - 1))
	c.head = binary.LittleEndian.Uint16(r.avail[4+2*slot:])
	c.out, c.in, c.outLen, c.len = c.out[:0], c.in[:0], 0, 0
	if c.head >= r.size {
		return false, fmt.Errorf("buffer starts at descriptor %d of %d", c.head, r.size)
	}

	table, i, limit, indirect := r.desc, c.head, r.size, false
	for count := uint16(0); ; count++ {
		// A chain longer than the ring goes in circles: the specification forbids it even with indirect descriptors.
		if count >= r.size {
			return false, fmt.Errorf("chain of more than %d descriptors", r.size)
		}
		d := table[int(i)*descSize:][:descSize]
		addr := binary.LittleEndian.Uint64(d)
		size := uint64(binary.LittleEndian.Uint32(d[8:]))
		flags := binary.LittleEndian.Uint16(d[12:])
		next := binary.LittleEndian.Uint16(d[14:])

		if flags&descIndirect != 0 {
			if indirect || flags&descNext != 0 {
				return false, errors.New("indirect table that is not the end of its chain")
			}
			if size == 0 || size%descSize != 0 || size/descSize > maxRingSize {
				return false, fmt.Errorf("indirect table of %d bytes", size)
			}
			if table = m.atGuest(addr, size); uint64(len(table)) < size {
				return false, fmt.Errorf("indirect table at %#x lies outside of the enclave's memory", addr)
			}
			limit, i, indirect, count = uint16(size/descSize), 0, true, ^uint16(0)
			continue
		}
		for size > 0 {
			part := m.atGuest(addr, size)
			if part == nil {
				return false, fmt.Errorf("buffer at %#x lies outside of the enclave's memory", addr)
			}
			if flags&descWrite != 0 {
				c.in = append(c.in, part)
				c.len += uint64(len(part))
			} else if len(c.in) > 0 {
				return false, errors.New("buffer to read behind a buffer to write")
			} else {
				c.out = append(c.out, part)
				c.outLen += uint64(len(part))
			}
			addr += uint64(len(part))
			size -= uint64(len(part))
		}
		if flags&descNext == 0 {
			r.next++
			return true, nil
		}
		if next >= limit {
			return false, fmt.Errorf("descriptor %d of %d", next, limit)
		}
		i = next
	}
}

// untake gives the buffer that was taken last back, untouched, to be taken again.
func (r *ring) untake() { r.next-- }

// give returns the buffer with the given head to the driver, n bytes written.
func (r *ring) give(head uint16, n int) {
	slot := r.used[4+8*int(r.done&(r.size-1)):]
	binary.LittleEndian.PutUint32(slot, uint32(head))
	binary.LittleEndian.PutUint32(slot[4:], uint32(n))
	r.done++
	flags := atomic.LoadUint32(word(r.used, 0)) & 0xffff
	atomic.StoreUint32(word(r.used, 0), uint32(r.done)<<16|flags)
}

// signal tells the driver about returned buffers, if there are any and it asked for it.
func (r *ring) signal() {
	if r.done == r.signalled {
		return
	}
	old := r.signalled
	r.signalled = r.done
	// The store of the index in give and the load here are both sequentially consistent, so that either the driver sees the
	// index or we see its wish.
	if r.eventIdx {
		if r.done-r.wanted()-1 >= r.done-old {
			return
		}
	} else if atomic.LoadUint32(word(r.avail, 0))&availNoEvent != 0 {
		return
	}
	r.tell()
}

// wanted is the index of the buffer that the driver wants to be told of.
func (r *ring) wanted() uint16 {
	at := 4 + 2*int(r.size) // in the upper half of a word, where the ring has one descriptor
	return uint16(atomic.LoadUint32(word(r.avail, at&^3)) >> (8 * (at & 3)))
}

func (r *ring) tell() {
	if r.call != nil {
		r.call.Write(one[:])
	}
}

// one is what makes an eventfd readable.
var one = [8]byte{1}

var fence atomic.Uint32

// wantKicks asks the driver to tell about new buffers, or not to. After asking, the caller looks once more: a buffer that came before
// the driver could read this is not told about.
func (r *ring) wantKicks(want bool) {
	if r.eventIdx {
		if want {
			binary.LittleEndian.PutUint16(r.used[4+8*int(r.size):], r.next)
			// A read-modify-write orders the plain store above before the next load of the available index.
			fence.Add(1)
		}
		return
	}
	flags := uint32(usedNoNotify)
	if want {
		flags = 0
	}
	atomic.StoreUint32(word(r.used, 0), uint32(r.done)<<16|flags)
}
