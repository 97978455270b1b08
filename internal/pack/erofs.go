package pack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// ErofsTools runs the locked version of erofs-utils, which always makes the same bytes, in the sandbox of
// `neb build`.
type ErofsTools interface {
	// Work makes a directory for files that the programs read and write.
	Work(context.Context) (string, error)
	// Run runs a program by its path in the sandbox, where work's subdirectories src and out are /src and
	// /out.
	Run(ctx context.Context, work string, args ...string) error
}

// mkfsOptions make an image from a tar archive that depends on the archive only: the block size that init
// needs, a fixed UUID, clusters of 64 KiB. docs/eif.md has the figures behind the choice of compression.
var mkfsOptions = []string{
	"/usr/bin/mkfs.erofs", "--quiet", "--tar=f",
	"-b4096", "-zzstd,level=3", "-C65536", "-T0", "--mkfs-time",
	"-U00000000-0000-0000-0000-000000000000",
	"/out/root.erofs", "/src/root.tar",
}

// erofs makes an erofs image of the application's tree and puts it into the ramdisk.
func (b *Build) erofs(ctx context.Context, d *disk, description *contract.Description) error {
	work, err := b.ErofsTools.Work(ctx)
	if err != nil {
		return err
	}
	d.work = work
	for _, sub := range []string{"src", "out"} {
		if err := os.MkdirAll(filepath.Join(work, sub), 0o777); err != nil {
			return err
		}
	}
	archive := filepath.Join(work, "src", "root.tar")
	if err := b.tar(ctx, archive); err != nil {
		return err
	}
	if err := b.ErofsTools.Run(ctx, work, mkfsOptions...); err != nil {
		return fmt.Errorf("mkfs.erofs: %w", err)
	}
	if err := os.Remove(archive); err != nil {
		return err
	}
	return d.addParts(filepath.Join(work, "out", "root.erofs"), description, contract.RootPartSize)
}

// tar writes the application's tree as a tar archive.
func (b *Build) tar(ctx context.Context, name string) error {
	t := image.NewTree(b.TempDir, image.Limits{})
	defer t.Close()
	if err := b.root(ctx, t, ""); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out, err := newCounter(ctx, f, t, b.Progress)
	if err == nil {
		err = t.WriteTar(out, b.latest())
		out.end()
	}
	return errors.Join(err, f.Close())
}

// addParts puts an image into the ramdisk, in parts of at most partSize bytes, which an entry can hold.
func (d *disk) addParts(name string, description *contract.Description, partSize int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	d.tree.CloseLater(f)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("mkfs.erofs made an empty image")
	}
	for at := int64(0); at < info.Size(); at += partSize {
		part := contract.RootPart(int(description.ErofsParts))
		e := &image.Entry{Path: strings.TrimPrefix(part, "/"), Mode: file0600}
		if err := d.tree.PutPart(e, f, at, min(partSize, info.Size()-at)); err != nil {
			return err
		}
		description.ErofsParts++
	}
	return nil
}
