// Package nsm is a Nitro Secure Module for emulated enclaves: the registers, the requests of the NSM API and
// the signed attestation documents ([Module]), behind a virtio device that a vhost-user front end such as
// QEMU's drives.
//
// It answers as the NSM API (aws/aws-nitro-enclaves-nsm-api) and its test program expect, and as QEMU's
// virtio-nsm.c does where both are silent. It is not a security module: the user who runs it holds its keys.
package nsm
