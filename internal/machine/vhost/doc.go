// Package vhost is the part that all virtio devices of an emulated enclave share: the back end of QEMU's
// vhost-user protocol, the enclave's memory, and its split virtqueues.
//
// A device consists of two parts. A [Device] answers QEMU's messages, maps the memory that it shares, and
// waits for the enclave to notify its queues. A [Handler] is what the particular device does: it takes each
// [Buffer] from a [Queue], reads and writes it, and gives it back. The shortest device is that of package
// [github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm].
//
// [Device.Connect] returns a file that QEMU inherits, as its descriptor N, with -chardev socket,id=NAME,fd=N
// and a vhost-user device with chardev=NAME. The machine's memory must be shared (a memory backend with
// share=on).
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
