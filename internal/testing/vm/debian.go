package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// debianKernel is a kernel for aarch64 that is downloaded (28 MB) instead of compiled. To use another one,
// take the fields from the index of packages, and a time at which the archive of Debian snapshots had it.
var debianKernel = lock.File{
	Name:     "linux-image-6.12.117+deb13-cloud-arm64",
	Version:  "6.12.117-1",
	Arch:     "arm64",
	Archive:  lock.Debian,
	Path:     "pool/main/l/linux-signed-arm64/linux-image-6.12.117+deb13-cloud-arm64_6.12.117-1_arm64.deb",
	Snapshot: time.Date(2026, 11, 22, 9, 15, 44, 0, time.UTC),
	Size:     28391960,
	SHA256:   "cc33e288505c3271539beab498aeb4f25e27b8f7c0c49ddb6c506b6d3c50c22f",
}

// moduleDir is the directory of further modules among the blobs. The names in it sort in the order of
// loading.
const moduleDir = "modules"

// Modules returns the kernel modules in a directory of [Blobs] that init has to load after nsm.ko, in order.
func Modules(blobs string) ([]string, error) {
	return filepath.Glob(filepath.Join(blobs, moduleDir, "*.ko"))
}

// debianBlobs makes blobs for aarch64 from Debian's kernel and neb's init.
func debianBlobs(b *component.Builder) (string, error) {
	ctx := context.Background()
	outputs, err := b.Build(ctx, eif.AArch64, "init")
	if err != nil {
		return "", err
	}
	unpacked, _, err := b.Store.Output(ctx, "test-kernel-"+debianKernel.SHA256+"-tun",
		func(dir string) error {
			if err := b.Fetch(ctx, []lock.File{debianKernel}); err != nil {
				return err
			}
			if err := os.Mkdir(filepath.Join(dir, moduleDir), 0o755); err != nil {
				return err
			}
			return unpackKernel(ctx, b.Store.Path(debianKernel), dir)
		})
	if err != nil {
		return "", fmt.Errorf("%s: %w", debianKernel.Name, err)
	}
	dir, err := b.Store.Work(ctx)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"Image", "Image.config", "nsm.ko", moduleDir} {
		err = errors.Join(err, os.Symlink(filepath.Join(unpacked, name), filepath.Join(dir, name)))
	}
	return dir, errors.Join(err,
		os.Symlink(filepath.Join(outputs[0].Dir, "init"), filepath.Join(dir, "init")),
		os.WriteFile(filepath.Join(dir, "cmdline"), []byte(kernel.Cmdline(eif.AArch64)+"\n"), 0o644))
}

// unpackKernel writes the kernel, its configuration and the modules of a Debian package into dir.
func unpackKernel(ctx context.Context, deb, dir string) error {
	work := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	k, err := debian.UnpackKernel(ctx, work, eif.AArch64, []string{debian.Network}, deb)
	if err != nil {
		return err
	}
	err = errors.Join(os.Rename(k.Image, filepath.Join(dir, "Image")),
		os.Rename(k.Config, filepath.Join(dir, "Image.config")),
		os.Rename(k.NSM, filepath.Join(dir, "nsm.ko")))
	for i, m := range k.Modules {
		to := fmt.Sprintf("%d-%s", i+1, filepath.Base(m))
		err = errors.Join(err, os.Rename(m, filepath.Join(dir, moduleDir, to)))
	}
	return errors.Join(err, os.Remove(work))
}
