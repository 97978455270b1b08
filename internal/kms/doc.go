// Package kms is a local stand-in for the part of AWS KMS that enclaves use: symmetric keys, data keys and
// random bytes, key policies with conditions on the enclave's attestation document, and answers that only the
// enclave can decrypt. It speaks AWS JSON 1.1 over HTTP or TLS, so that the clients of AWS work unchanged.
//
// It is for development and protects nothing: the keys lie in a file, and a development root vouches for the
// documents. Where it cannot decide a policy as AWS does, it denies, and says why.
//
// Sources: the AWS KMS API Reference and Developer Guide, the IAM User Guide (policy evaluation), "Signature
// Version 4" in the same, and RFC 5652 (CMS).
package kms
