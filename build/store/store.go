// Package store keeps downloads by their content and finished outputs by the key of what went into them.
//
// Everything in a store was verified before it got its name there, and gets its name by a rename: a process
// killed at any moment leaves nothing half-written behind that could be used.
package store
