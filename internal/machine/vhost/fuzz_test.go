package vhost

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
)

// FuzzRing gives the device rings and memory that are noise: it must take and return buffers, or report the
// ring as broken, and access nothing outside the memory.
func FuzzRing(f *testing.F) {
	const most = 8
	// A valid ring with one buffer, an indirect one, and a loop.
	good := make([]byte, 512)
	binary.LittleEndian.PutUint64(good, 256)
	binary.LittleEndian.PutUint32(good[8:], 44)
	good[most*descSize+2] = 1
	f.Add(good)
	indirect := bytes.Clone(good)
	binary.LittleEndian.PutUint32(indirect[8:], 32)
	indirect[12] = descIndirect
	f.Add(indirect)
	loop := bytes.Clone(good)
	loop[12] = descNext
	f.Add(loop)
	f.Add(bytes.Repeat([]byte{0xff}, 512))
	f.Add(good[:511]) // a ring of one descriptor

	f.Fuzz(func(t *testing.T, data []byte) {
		mem := aligned(1024)
		copy(mem, data)
		u := newUpper()
		d := u.dev
		d.mem = memory{
			{guest: 0, user: virtio.UserBase, data: mem[:512]},
			{guest: 512, user: virtio.UserBase + 512, data: mem[512:]},
		}
		size := most >> (len(data) % 4)
		avail := size * descSize
		// as a driver aligns it; the ring of one descriptor needs that
		used := (avail + availSize(size) + 3) &^ 3
		q := d.Queue(0)
		q.size = uint16(size)
		q.eventIdx = len(data)%8 < 4
		if err := q.place(mem[:avail], mem[avail:used], mem[used:used+usedSize(size)]); err != nil {
			t.Fatal(err)
		}
		d.Lock()
		defer d.Unlock()
		d.running = true
		// The device writes into the memory in which the ring may lie, so that each round can find another
		// ring. A ring of noise can provide the same buffer for ever.
		for range 100 {
			if !q.Take(&u.buf) {
				break
			}
			if n := u.buf.Len() + u.buf.Room(); n > 1024*most*maxRingSize {
				t.Errorf("buffer of %d bytes", n)
			}
			for b := u.buf.Next(7); b != nil; b = u.buf.Next(7) {
				if at := uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&mem[0])); at+uintptr(
					len(b)) > 1024 {
					t.Fatalf("%d bytes at %#x of the memory", len(b), at)
				}
				if u.buf.Room() > 0 {
					u.buf.Write(b)
				}
			}
			q.Give(&u.buf)
		}
		q.Notify()
		d.stop()
	})
}

// aligned makes memory whose first byte has an address that is a multiple of 16, as pages have.
func aligned(n int) []byte {
	b := make([]byte, n+16)
	return b[16-uintptr(unsafe.Pointer(&b[0]))%16:][:n:n]
}

// FuzzFrontend sends the device any message of QEMU. QEMU is trusted, but must not be able to crash us by
// mistake.
func FuzzFrontend(f *testing.F) {
	f.Add(uint32(msgSetMemTable), append(virtio.Words(1, 0), make([]byte, 32)...))
	f.Add(uint32(msgGetConfig), virtio.Words(4, 8, 0))
	f.Add(uint32(msgSetVringNum), virtio.Words(0, 3))
	f.Add(uint32(msgSetVringAddr), make([]byte, 40))
	f.Add(uint32(msgGetVringBase), virtio.Words(1, 0))
	f.Fuzz(func(t *testing.T, request uint32, payload []byte) {
		d := newUpper().dev
		d.mem = memory{{guest: 0, user: 0, data: aligned(4096)}}
		fe := frontend{d: d}
		fe.handle(&message{request: msgSetVringNum, payload: virtio.Words(0, 8)})
		fe.handle(&message{request: request, payload: payload})
		fe.handle(&message{request: msgSetVringAddr, payload: append(virtio.Words(0, 0), payload...)})
		d.Lock()
		d.mem = nil
		d.forget()
		d.Unlock()
		d.cancel()
	})
}

// FuzzSession sends the device all that a QEMU says, as bytes, with the descriptors that its messages need.
// The seeds qemu-vsock and qemu-nsm in testdata are what QEMU 11.1 said to the two devices of an enclave that
// booted and ended.
func FuzzSession(f *testing.F) {
	f.Fuzz(func(t *testing.T, session []byte) {
		before := openFiles(t)
		u := &upper{failed: make(chan error, 1)}
		u.dev = New(Config{
			Queues: []string{"request", "other"}, OtherQueues: 1, Space: make([]byte, 8), Handler: u,
		})
		socket, err := u.dev.Connect()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.FileConn(socket)
		socket.Close()
		if err != nil {
			t.Fatal(err)
		}
		memory := os.NewFile(uintptr(memfd(t)), "memory")
		go io.Copy(io.Discard, conn) // answers
		for len(session) >= 12 {
			word := func(at int) (v uint32) {
				if len(session) >= at+4 {
					v = binary.NativeEndian.Uint32(session[at:])
				}
				return v
			}
			n := min(12+int(word(8)%(2*maxMessage)), len(session))
			var files []*os.File
			switch word(0) {
			case msgSetMemTable:
				files = slices.Repeat([]*os.File{memory}, int(min(word(12), maxRegions)))
			case msgSetVringKick, msgSetVringCall, msgSetVringErr:
				files = []*os.File{virtio.Eventfd(t)}
			}
			var rights []byte
			if len(files) > 0 {
				fds := make([]int, len(files))
				for i, file := range files {
					fds[i] = int(file.Fd())
				}
				rights = unix.UnixRights(fds...)
			}
			_, _, err := conn.(*net.UnixConn).WriteMsgUnix(session[:n], rights, nil)
			for _, file := range files {
				if file != memory {
					file.Close()
				}
			}
			if err != nil {
				break // the device has closed the connection
			}
			session = session[n:]
		}
		conn.(*net.UnixConn).CloseWrite()
		u.dev.work.Wait() // the device has seen the end
		if u.dev.mem != nil || u.dev.running {
			t.Error("the device still uses what QEMU lent")
		}
		u.dev.Close()
		conn.Close()
		memory.Close()
		if after := openFiles(t); after > before {
			t.Errorf("%d open files, %d before", after, before)
		}
	})
}

// memfd returns a file as large as the memory of the enclave whose QEMU was recorded.
func memfd(t *testing.T) int {
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, 512<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openFiles(t *testing.T) int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
