// Package vsock is the parent's end of an enclave's vsock, as a vhost-user device for QEMU.
//
// It needs no kernel module on the host and no privileges: the enclave reaches the parent as CID 3 because
// the device itself answers for that address. A [Device] is connected to QEMU (chardev of a
// vhost-user-vsock-device or of the nitro-enclave machine), passes each connection that the enclave opens to
// the [Handler] of its port, and opens connections into the enclave with [Device.Dial]. A connection is a
// [Conn], which is a [net.Conn] with CloseWrite.
//
// The device follows section 5.10 (Socket Device) of the Virtual I/O Device specification, version 1.2:
// stream sockets only, credit-based flow control in both directions, shutdown and reset. Package vhost
// handles its queues. The enclave is not trusted: whatever it writes into its packets, the device neither
// crashes nor grows beyond its [Config].
//
// It cannot talk to a real enclave (that needs AF_VSOCK on the parent instance), and it offers neither
// datagrams nor SEQPACKET, as Nitro does not.
package vsock
