// Package neb holds what is built into neb from the root of its repository: the lock file, and the licences
// that go with every release.
package neb

import "embed"

// LockFile is neb.lock, every outside input of a build; read it with internal/hermetic/lock.
//
//go:embed neb.lock
var LockFile []byte

// Licences are the texts that whoever passes the blobs on has to pass on with them.
//
//go:embed LICENSE NOTICE THIRD_PARTY_LICENSES LICENSES
var Licences embed.FS
