// Package vhost is the part that all virtio devices of an emulated enclave share: the back end of QEMU's
// vhost-user protocol, the enclave's memory, and its split virtqueues.
//
// A device consists of two parts. A [Device] answers QEMU's messages, maps the memory that it shares, and waits
// for the enclave to notify its queues. A [Handler] is what the
// particular device does: it takes each [Buffer] from a [Queue], reads and writes it, and gives it back. A
// device with one queue whose requests fit in one buffer is this:
//
//	type upper struct {
//		dev *vhost.Device
//		buf vhost.Buffer // reused, so that a request allocates nothing
//	}
//
//	func (u *upper) Start()           {}
//	func (u *upper) Stop()            {}
//	func (u *upper) Broken(err error) { log.Print(err) }
//	func (u *upper) Failed(err error) { log.Print(err) }
//
//	func (u *upper) Kick(int) bool {
//		q := u.dev.Queue(0)
//		for q.Take(&u.buf) {
//			request := make([]byte, min(u.buf.Len(), 4096)) // the enclave chooses Len
//			io.ReadFull(&u.buf, request)
//			u.buf.Write(bytes.ToUpper(request))
//			q.Give(&u.buf)
//		}
//		q.Notify()
//		return false
//	}
//
//	u := &upper{}
//	u.dev = vhost.New(vhost.Config{Queues: []string{"request"}, Handler: u})
//	file, err := u.dev.Connect()
//
// QEMU inherits file as its descriptor 3, and gets -chardev socket,id=upper,fd=3 and a vhost-user device
// with chardev=upper. The machine's memory must be shared (a memory backend with share=on).
//
// The enclave is not trusted: whatever it writes into its rings, a queue either returns buffers that lie
// inside the enclave's memory, or reports the ring as broken and is not used until the enclave resets the
// device. The bytes of a buffer can change while they are read, so a handler copies what it checks.
//
// The package follows section 2.7 (Split Virtqueues) of the Virtual I/O Device specification, version 1.2,
// and QEMU's docs/interop/vhost-user.rst. It offers VIRTIO_RING_F_INDIRECT_DESC and VIRTIO_RING_F_EVENT_IDX.
// With the latter, both sides omit notifications that the other does not want, which needs memory barriers
// that hold between threads: under QEMU's TCG, an x86 machine has them only if it may have more than one
// processor (-smp 1,maxcpus=2).
//
// It has no packed virtqueues, no migration, no shared-memory regions, and no queues that must be polled.
package vhost
