// Package machine runs an enclave under QEMU, and plays its parent.
//
// [Start] boots the sections of an Enclave Image File on QEMU's microvm (x86_64) or virt (aarch64) machine.
// The devices of an enclave are packages [github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock],
// the parent's side of vsock, and [github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm], a Nitro
// Secure Module with the file's measurements. They run in this process: nothing of the host's kernel is
// needed, neither KVM nor vhost modules nor privileges.
//
// It emulates; it does not isolate as an enclave does. Attestation documents are signed under a development
// root, which proves nothing to anyone else.
package machine
