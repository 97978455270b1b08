// Package nsm speaks with the Nitro Secure Module of an enclave, and parses and verifies the attestation
// documents that it signs.
//
// [Parse] checks a document's form, [Document.Verify] its signature and the chain of certificates up to a
// root that the caller trusts ([AWSRoot] is that of all commercial AWS regions), and [Document.Compare] what
// it says. All three are needed: a document with a correct signature and the registers of somebody else's
// enclave is worth nothing. The rules are those of docs/attestation_process.md in
// aws/aws-nitro-enclaves-nsm-api.
//
// Inside an enclave, [Open] opens /dev/nsm (Linux only).
//
// The package knows nothing of images: which registers to expect is what package eif measures.
package nsm
