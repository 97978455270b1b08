package component

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// emulatorVersion changes when the same packages make another directory.
const emulatorVersion = "1"

// firmware is what QEMU needs to boot a kernel on a machine of ours.
var firmware = []string{"qboot.rom", "linuxboot_dma.bin"}

// start starts QEMU with the loader and libraries of its own packages, whatever this machine has.
const start = `#!/bin/sh
dir=$(dirname "$0")/..
export QEMU_MODULE_DIR=/nonexistent # not those of another QEMU
exec "$dir/lib/%s" --library-path "$dir/lib" "$dir/libexec/${0##*/}" -L "$dir/share" "$@"
`

// Emulator returns the directory of the emulator, which is what its machines need of the locked packages:
// bin/qemu-system-x86_64 and bin/qemu-system-aarch64, which start them, with libexec, lib and share. If the
// store does not have it, the packages are fetched and unpacked: nothing is compiled, and no sandbox is
// needed.
func (b *Builder) Emulator(ctx context.Context) (string, error) {
	tools, err := b.toolchain(lock.Emulator)
	if err != nil {
		return "", err
	}
	key := "emulator-" + keyOf("emulator", emulatorVersion, tools.inputs())
	dir, _, err := b.Store.Output(ctx, key, func(dir string) error {
		if err := b.Fetch(ctx, tools.packages); err != nil {
			return err
		}
		root := filepath.Join(dir, ".root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		if err := b.unpack(ctx, tools, root); err != nil {
			return err
		}
		if err := emulatorIn(ctx, root, dir); err != nil {
			return fmt.Errorf("emulator: %w", err)
		}
		return tree.Remove(ctx, root)
	})
	return dir, err
}

// emulatorIn makes the emulator in dir out of the packages unpacked in root.
func emulatorIn(ctx context.Context, root, dir string) error {
	for _, name := range firmware {
		from := filepath.Join(root, "usr/share/qemu", name)
		if err := tree.CopyFile(ctx, from, filepath.Join(dir, "share", name), 0o644); err != nil {
			return err
		}
	}
	copied := map[string]bool{}
	for _, a := range arch.All {
		name := "qemu-system-" + a.Name
		program := filepath.Join(dir, "libexec", name)
		if err := tree.CopyFile(ctx, filepath.Join(root, "usr/bin", name), program, 0o644); err != nil {
			return err
		}
		loader, err := interpreter(program)
		if err != nil {
			return err
		}
		if err := copyLibraries(ctx, root, dir, program, copied); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, "lib", loader), 0o755); err != nil {
			return err
		}
		script := fmt.Sprintf(start, loader)
		if err := tree.WriteFile(filepath.Join(dir, "bin", name), 0o755,
			strings.NewReader(script)); err != nil {
			return err
		}
	}
	return nil
}

// interpreter returns the file name of the dynamic loader that a program asks for.
func interpreter(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				return "", fmt.Errorf("%s: %w", program, err)
			}
			return filepath.Base(strings.TrimRight(string(text), "\x00")), nil
		}
	}
	return "", fmt.Errorf("%s: no dynamic loader: expected a dynamic program", program)
}

// copyLibraries copies the libraries that a program or library needs into dir/lib, and those that they need.
// The loader is one of them: the C library needs it.
func copyLibraries(ctx context.Context, root, dir, of string, copied map[string]bool) error {
	f, err := elf.Open(of)
	if err != nil {
		return err
	}
	names, err := f.ImportedLibraries()
	f.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", of, err)
	}
	for _, name := range names {
		if copied[name] {
			continue
		}
		copied[name] = true
		found, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu", filepath.Base(name)))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%s needs the library %s: expected it once in usr/lib/*-linux-gnu of the "+
				"locked packages, found %d", filepath.Base(of), name, len(found))
		}
		to := filepath.Join(dir, "lib", name)
		if err := tree.CopyFile(ctx, found[0], to, 0o644); err != nil {
			return err
		}
		if err := copyLibraries(ctx, root, dir, to, copied); err != nil {
			return err
		}
	}
	return nil
}
