package vm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
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

// debianModules are the modules that an enclave needs with this kernel, in the order in which they are
// loaded.
var debianModules = []string{
	"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport", "virtio_mmio", "tun",
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
	unpacked, _, err := b.Store.Output(ctx, "test-kernel-"+debianKernel.SHA256+"-tun", func(dir string) error {
		if err := b.Fetch(ctx, []lock.File{debianKernel}); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(dir, moduleDir), 0o755); err != nil {
			return err
		}
		return unpackKernel(b.Store.Path(debianKernel), dir)
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
func unpackKernel(deb, dir string) error {
	files := map[string]string{"vmlinuz": "Image", "config": "Image.config", "nsm.ko.xz": "nsm.ko"}
	for i, name := range debianModules {
		files[name+".ko.xz"] = fmt.Sprintf("%s/%d-%s.ko", moduleDir, i+1, name)
	}
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := sandbox.DebData(f)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(data); len(files) > 0; {
		h, err := archive.Next()
		if err == io.EOF {
			return fmt.Errorf("the package lacks %s", slices.Sorted(maps.Keys(files)))
		}
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		if path.Base(path.Dir(h.Name)) == "boot" {
			name, _, _ = strings.Cut(name, "-") // the rest is the version
		}
		to := files[name]
		if to == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		delete(files, name)
		var content io.Reader = archive
		if path.Ext(name) == ".xz" {
			if content, err = xz.NewReader(archive); err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
		}
		if err := writeFile(filepath.Join(dir, to), content); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, content io.Reader) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
