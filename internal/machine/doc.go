// Package machine runs an enclave under QEMU, and plays its parent.
//
// [Start] boots an Enclave Image File: on x86_64 with QEMU's nitro-enclave machine, which reads the file
// itself and has a Nitro Secure Module with the file's real measurements; on aarch64 with the virt machine
// and the sections of the file, without such a module. The parent's side of vsock is package
// [github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock], so that nothing of the host's kernel is
// needed, neither KVM nor vhost modules nor privileges.
//
// It emulates; it does not isolate as an enclave does, and what the emulated secure module says is not
// signed.
package machine
