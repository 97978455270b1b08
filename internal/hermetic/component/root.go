package component

import (
	"context"
	"runtime"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
)

// toolchain is a list of locked packages.
type toolchain struct{ packages []lock.File }

func (b *Builder) toolchain(sets ...string) (toolchain, error) {
	packages, err := b.Lock.Files(runtime.GOARCH, sets...)
	return toolchain{packages}, err
}

func (t toolchain) inputs() []Input { return lockedInputs("package", t.packages...) }

// rootVersion changes when neb unpacks the same packages differently.
const rootVersion = "2"

func (t toolchain) key() string { return "root-" + keyOf("root", rootVersion, t.inputs()) }

// root returns the unpacked toolchain, an output of the store. It also fetches more, in the same call of
// Fetch.
func (b *Builder) root(ctx context.Context, t toolchain, more ...lock.File) (string, error) {
	key := t.key()
	b.roots.Lock()
	defer b.roots.Unlock()
	if dir := b.roots.dirs[key]; dir != "" {
		return dir, b.Fetch(ctx, more)
	}
	dir, err := b.verifiedRoot(ctx, key, t, more)
	if err == nil {
		if b.roots.dirs == nil {
			b.roots.dirs = map[string]string{}
		}
		b.roots.dirs[key] = dir
	}
	return dir, err
}

// verifiedRoot is root without the builder's list of verified roots.
func (b *Builder) verifiedRoot(ctx context.Context, key string, t toolchain, more []lock.File) (string,
	error) {
	dir, err := b.stored(ctx, key)
	if err != nil {
		return "", err
	}
	if dir != "" {
		return dir, b.Fetch(ctx, more)
	}
	if err := b.Fetch(ctx, append(more, t.packages...)); err != nil {
		return "", err
	}
	dir, _, err = b.Store.Output(ctx, key, func(dir string) error {
		return b.unpack(ctx, t, dir)
	})
	return dir, err
}

// unpack unpacks the packages of a toolchain, which are in the store, into dir.
func (b *Builder) unpack(ctx context.Context, t toolchain, dir string) error {
	var packages []sandbox.Package
	for _, f := range t.packages {
		packages = append(packages, sandbox.Package{Name: f.Name, Path: b.Store.Path(f)})
	}
	return sandbox.Unpack(ctx, dir, packages, b.Progress)
}

// Fetch downloads files into the store. With [Builder.Offline] it fails and names those that are missing.
func (b *Builder) Fetch(ctx context.Context, files []lock.File) error {
	return b.Store.Fetch(ctx, files, store.FetchOptions{Offline: b.Offline, Progress: b.Progress})
}
