//go:build linux && amd64

package main

import (
	"os"
	"testing"
)

func emulatorDir(t testing.TB) string { return fromEnvironment(t, "NEB_QEMU") }

func blobsDir(t testing.TB) string { return fromEnvironment(t, "NEB_BLOBS") + "/x86_64" }

func fromEnvironment(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv(name)
	if dir == "" {
		t.Skip(name + " is not set")
	}
	return dir
}
