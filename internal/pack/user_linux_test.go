package pack_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestDirOfAnyUser packs the same tree as root made it and as an ordinary user did, at another time.
func TestDirOfAnyUser(t *testing.T) {
	require.Root(t)
	const user, group = 1234, 1235
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the user has to get there
		t.Fatal(err)
	}
	for name, owner := range map[string][2]int{"mine": {0, 0}, "others": {7, 8}, "bin": {0, 0},
		"bin/hello": {0, 8}} {
		for tree, own := range map[string][2]int{"roots": {0, 0}, "users": {user, group}} {
			path := filepath.Join(dir, tree, name)
			if err := os.MkdirAll(filepath.Join(dir, tree, "bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			if name != "bin" {
				if err := os.WriteFile(path, []byte(name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			uid, gid := owner[0], owner[1]
			if uid == 0 {
				uid = own[0]
			}
			if gid == 0 {
				gid = own[1]
			}
			if err := os.Chown(path, uid, gid); err != nil {
				t.Fatal(err)
			}
			if tree == "users" {
				if err := os.Chtimes(path, time.Unix(1_700_000_000, 0),
					time.Unix(1_700_000_000, 0)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	outputs := map[string]*os.File{"roots": enclaves.TempFile(t), "users": enclaves.TempFile(t)}
	build := func(tree string) {
		if _, err := (&pack.Build{Arch: eif.X86_64, Blobs: blobs, RootFS: filepath.Join(dir, tree),
			Overrides: start, Allow: anything()}).To(t.Context(), outputs[tree]); err != nil {
			t.Error(err)
		}
	}
	build("roots")
	if err := errors.Join(syscall.Setregid(-1, group), syscall.Setreuid(-1, user)); err != nil {
		t.Fatal(err)
	}
	build("users")
	if err := errors.Join(syscall.Setreuid(-1, 0), syscall.Setregid(-1, 0)); err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(outputs["roots"].Name())
	b, errB := os.ReadFile(outputs["users"].Name())
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("root and an ordinary user make different files of the same tree")
	}
	f, err := eif.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	entries := ramdisk(t, f, 1)
	for name, owner := range map[string][2]uint64{"mine": {0, 0}, "others": {7, 8}, "bin/hello": {0, 8}} {
		if e := enclaves.Find(entries, "rootfs/"+name); e == nil || [2]uint64{e.UID, e.GID} != owner {
			t.Errorf("%s: found %+v, expected the owner %v", name, e, owner)
		}
	}
}
