// Package vsock is the parent's end of an enclave's vsock, as a vhost-user device that QEMU connects to.
//
// It needs no kernel module on the host and no privileges: the enclave reaches the parent as CID 3 because the device
// itself answers for that address. A [Device] listens on a Unix socket for QEMU (chardev of a vhost-user-vsock-device or of
// the nitro-enclave machine), gives each connection that the enclave opens to the [Handler] of its port, and opens
// connections into the enclave with [Device.Dial]. A connection is a [Conn], which is a [net.Conn] with CloseWrite.
//
// The device follows section 5.10 (Socket Device) of the Virtual I/O Device specification, version 1.2: stream sockets only, credit-based
// flow control in both directions, shutdown and reset. The other end is not trusted: whatever it writes into its rings or
// packets, the device neither crashes nor grows beyond its [Config], and a ring that makes no sense is left alone
// until the enclave resets the device.
//
// The device and the enclave leave out notifications that the other does not want, as VIRTIO_RING_F_EVENT_IDX has it. That needs memory barriers that hold
// against other threads: under QEMU's TCG, an x86 machine has them only if it may have more than one processor (-smp 1,maxcpus=2).
//
// It is not a way to talk to a real enclave (that is AF_VSOCK on the parent instance), and it offers neither datagrams
// nor SEQPACKET, as Nitro does not.
package vsock
