// Package neb holds what is built into neb from the root of its repository: the lock file.
package neb

import _ "embed"

// LockFile is neb.lock, every outside input of a build; read it with build/lock.
//
//go:embed neb.lock
var LockFile []byte
