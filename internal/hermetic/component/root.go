package component

import (
	"context"
	"runtime"
	"slices"

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

// root returns the unpacked toolchain, an output of the store that is verified once. It also fetches more, in
// the same call of Fetch.
func (b *Builder) root(ctx context.Context, t toolchain, more ...lock.File) (string, error) {
	key := t.key()
	b.roots.Lock()
	defer b.roots.Unlock()
	dir := b.roots.dirs[key]
	if dir == "" {
		var err error
		if dir, err = b.Store.Lookup(ctx, key); err != nil {
			return "", err
		}
	}
	missing := more
	if dir == "" {
		missing = slices.Concat(more, t.packages)
	}
	if err := b.Fetch(ctx, missing); err != nil {
		return "", err
	}
	if dir == "" {
		var err error
		dir, _, err = b.Store.Output(ctx, key, func(dir string) error { return b.unpack(ctx, t, dir) })
		if err != nil {
			return "", err
		}
	}
	if b.roots.dirs == nil {
		b.roots.dirs = map[string]string{}
	}
	b.roots.dirs[key] = dir
	return dir, nil
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
	o := store.FetchOptions{Offline: b.Offline, MirrorOnly: b.MirrorOnly, Progress: b.Progress}
	if b.Sharing != nil {
		o.Remotes = b.Sharing.Remotes
	}
	return b.Store.Fetch(ctx, files, o)
}
