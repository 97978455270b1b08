package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"
)

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	descSize     = 16
	maxRingSize  = 32768
	availNoEvent = 1 // VRING_AVAIL_F_NO_INTERRUPT: the driver does not want notifications
	usedNoNotify = 1 // VRING_USED_F_NO_NOTIFY: the device does not want notifications
)

// A Queue is a split virtqueue (specification, 2.7) seen from the device. Its methods are called with the
// device locked. Everything that the driver writes is read once and checked.
type Queue struct {
	dev  *Device
	name string

	size  uint16 // descriptors, a power of two
	desc  []byte // 16 bytes a descriptor: address u64, length u32, flags u16, next u16
	avail []byte // flags u16, index u16, heads u16 each, used_event u16
	used  []byte // flags u16, index u16, {head u32, length u32} each, avail_event u16

	next     uint16 // the available entry that comes next
	done     uint16 // our index in used
	notified uint16 // done at the last Notify
	eventIdx bool   // VIRTIO_RING_F_EVENT_IDX was negotiated
	quiet    bool   // the driver was asked not to notify

	kick, call *os.File  // from the driver, and to it; call is nil if it wants no notifications
	addresses  [3]uint64 // of descriptors, available and used entries, as QEMU sees them
	placed     bool      // the addresses are known and valid
	enabled    bool
}

// A Buffer is a request of the driver: a chain of parts for the device to read, then of parts for it to
// write. They are the enclave's memory, whose bytes can change at any time; a part is never empty, and a
// buffer can have no parts. The Buffer is valid until [Queue.Give], and as long as the device is locked or
// its queues run.
type Buffer struct {
	Out [][]byte // what is left to read
	In  [][]byte // what is left to write

	head    uint16
	written uint32
	parts   [][]byte // Out, then In, as they were; kept for the next Take
}

// Len returns the number of bytes that are left to read.
func (b *Buffer) Len() int { return total(b.Out) }

// Room returns the number of bytes that are left to write.
func (b *Buffer) Room() int { return total(b.In) }

func total(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// Read reads from the parts to read, and returns [io.EOF] behind their end.
func (b *Buffer) Read(p []byte) (n int, err error) {
	for n < len(p) && len(b.Out) > 0 {
		n += copy(p[n:], b.Next(len(p)-n))
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Next returns the next contiguous bytes to read, at most n: a slice of the enclave's memory. It returns nil
// at the end.
func (b *Buffer) Next(n int) []byte { return advance(&b.Out, n) }

// Write writes p into the parts to write. If they have less room it writes what fits and returns
// [io.ErrShortWrite].
func (b *Buffer) Write(p []byte) (n int, err error) {
	for n < len(p) && len(b.In) > 0 {
		n += copy(advance(&b.In, len(p)-n), p[n:])
	}
	b.written += uint32(n)
	if n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// advance removes at most n bytes from the first of parts and returns them.
func advance(parts *[][]byte, n int) []byte {
	if len(*parts) == 0 {
		return nil
	}
	first := (*parts)[0]
	if n < len(first) {
		(*parts)[0] = first[n:]
		return first[:n]
	}
	*parts = (*parts)[1:]
	return first
}

// locate finds the ring in memory.
func (q *Queue) locate() error {
	n, m := int(q.size), q.dev.mem
	area := func(i, size int) []byte { return m.atUser(q.addresses[i], uint64(size)) }
	err := q.place(area(0, n*descSize), area(1, availSize(n)), area(2, usedSize(n)))
	q.placed = err == nil
	return err
}

// place sets the memory of the ring. The three areas must be aligned to 4 bytes, because flags and index are
// read as one word. The specification asks for 2 bytes for avail only, but every driver places it behind the
// descriptors, which are aligned to 16 bytes.
func (q *Queue) place(desc, avail, used []byte) error {
	n := int(q.size)
	if n == 0 || n > maxRingSize || n&(n-1) != 0 {
		return fmt.Errorf("ring of %d descriptors, expected a power of two up to %d", n, maxRingSize)
	}
	if len(desc) < n*descSize || len(avail) < availSize(n) || len(used) < usedSize(n) {
		return errors.New("ring lies outside the enclave's memory")
	}
	for _, area := range [][]byte{desc, avail, used} {
		if uintptr(unsafe.Pointer(&area[0]))%4 != 0 {
			return errors.New("ring is not aligned to 4 bytes")
		}
	}
	q.desc, q.avail, q.used = desc, avail, used
	return nil
}

// The sizes of the two areas with the event index at their ends. avail is rounded up to a word, to read that
// index as one.
func availSize(n int) int { return 4 + 2*n + 4 }
func usedSize(n int) int  { return 4 + 8*n + 2 }

func word(area []byte, offset int) *uint32 { return (*uint32)(unsafe.Pointer(&area[offset])) }

// Available returns the number of buffers that the driver has made available and that were not taken. It is 0
// if the queues do not run or are broken.
func (q *Queue) Available() int {
	if !q.dev.running || q.dev.broken {
		return 0
	}
	n := uint16(atomic.LoadUint32(word(q.avail, 0))>>16) - q.next
	if n > q.size {
		q.Fail(fmt.Errorf("ring of %d descriptors has %d available buffers", q.size, n))
		return 0
	}
	return int(n)
}

// Take fills b with the next available buffer. It returns false if there is none, in which case the driver
// will notify the device about the next one, or if the queues do not run or are broken.
func (q *Queue) Take(b *Buffer) bool {
	if q.Available() == 0 {
		if !q.dev.running || q.dev.broken {
			return false
		}
		// A buffer that came before the driver could read the request for notifications comes without one.
		if q.wantKicks(true); q.Available() == 0 {
			return false
		}
	}
	if !q.quiet {
		q.wantKicks(false)
	}
	if err := q.read(b); err != nil {
		q.Fail(err)
		return false
	}
	q.next++
	return true
}

// read fills b with the next available buffer. An error means that the driver broke the rules.
func (q *Queue) read(b *Buffer) error {
	slot := int(q.next & (q.size - 1))
	b.head = binary.LittleEndian.Uint16(q.avail[4+2*slot:])
	b.parts, b.written = b.parts[:0], 0
	if b.head >= q.size {
		return fmt.Errorf("buffer starts at descriptor %d of %d", b.head, q.size)
	}
	out := 0 // parts to read
	table, i, limit, indirect := q.desc, b.head, q.size, false
	for count := uint16(0); ; count++ {
		// The specification forbids chains that are longer than the ring, even with indirect descriptors.
		if count >= q.size {
			return fmt.Errorf("chain of more than %d descriptors", q.size)
		}
		d := table[int(i)*descSize:][:descSize]
		addr := binary.LittleEndian.Uint64(d)
		size := uint64(binary.LittleEndian.Uint32(d[8:]))
		flags := binary.LittleEndian.Uint16(d[12:])
		next := binary.LittleEndian.Uint16(d[14:])

		if flags&descIndirect != 0 {
			if indirect || flags&descNext != 0 {
				return errors.New("indirect table is not the end of its chain")
			}
			if size == 0 || size%descSize != 0 || size/descSize > maxRingSize {
				return fmt.Errorf("indirect table of %d bytes, expected a multiple of %d up to %d",
					size, descSize, descSize*maxRingSize)
			}
			if table = q.dev.mem.atGuest(addr, size); uint64(len(table)) < size {
				return fmt.Errorf("indirect table at %#x lies outside the enclave's memory", addr)
			}
			limit, i, indirect, count = uint16(size/descSize), 0, true, ^uint16(0)
			continue
		}
		for size > 0 {
			part := q.dev.mem.atGuest(addr, size)
			if part == nil {
				return fmt.Errorf("buffer at %#x lies outside the enclave's memory", addr)
			}
			if flags&descWrite == 0 {
				if out < len(b.parts) {
					return errors.New("part to read follows a part to write")
				}
				out++
			}
			b.parts = append(b.parts, part)
			addr += uint64(len(part))
			size -= uint64(len(part))
		}
		if flags&descNext == 0 {
			b.Out, b.In = b.parts[:out:out], b.parts[out:]
			return nil
		}
		if next >= limit {
			return fmt.Errorf("chain continues at descriptor %d of %d", next, limit)
		}
		i = next
	}
}

// Untake makes the buffer that was taken last, of which nothing was written, available again.
func (q *Queue) Untake() { q.next-- }

// Give returns b, with what was written, to the driver. [Queue.Notify] must follow before the device is
// unlocked.
func (q *Queue) Give(b *Buffer) {
	slot := q.used[4+8*int(q.done&(q.size-1)):]
	binary.LittleEndian.PutUint32(slot, uint32(b.head))
	binary.LittleEndian.PutUint32(slot[4:], b.written)
	q.done++
	flags := atomic.LoadUint32(word(q.used, 0)) & 0xffff
	atomic.StoreUint32(word(q.used, 0), uint32(q.done)<<16|flags)
}

// Notify notifies the driver about the buffers given since the last Notify, if there are any and it asked for
// it.
func (q *Queue) Notify() {
	if q.done == q.notified {
		return
	}
	old := q.notified
	q.notified = q.done
	// The store of the index in Give and the load here are both sequentially consistent: either the driver
	// sees the index, or we see its wish.
	if q.eventIdx {
		if q.done-q.wanted()-1 >= q.done-old {
			return
		}
	} else if atomic.LoadUint32(word(q.avail, 0))&availNoEvent != 0 {
		return
	}
	if q.call != nil {
		q.call.Write(one[:])
	}
}

// wanted returns the index of the used entry about which the driver wants a notification.
func (q *Queue) wanted() uint16 {
	at := 4 + 2*int(q.size) // in the upper half of a word if the ring has one descriptor
	return uint16(atomic.LoadUint32(word(q.avail, at&^3)) >> (8 * (at & 3)))
}

// one is what makes an eventfd readable.
var one = [8]byte{1}

// Wake makes the device call [Handler].Kick for the queue, as if the driver had notified it.
func (q *Queue) Wake() {
	if q.kick != nil {
		q.kick.Write(one[:])
	}
}

// Fail reports the rings as broken. No queue of the device returns buffers until the enclave resets it.
func (q *Queue) Fail(err error) { q.dev.fail(q.name, err) }

var fence atomic.Uint32

// wantKicks asks the driver for notifications about new buffers, or for none.
func (q *Queue) wantKicks(want bool) {
	q.quiet = !want
	if q.eventIdx {
		if want {
			binary.LittleEndian.PutUint16(q.used[4+8*int(q.size):], q.next)
			// A read-modify-write orders the plain store above before the next load of the available index.
			fence.Add(1)
		}
		return
	}
	flags := uint32(usedNoNotify)
	if want {
		flags = 0
	}
	atomic.StoreUint32(word(q.used, 0), uint32(q.done)<<16|flags)
}
