package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
)

// Build checks that b's source can become a release of this version, and builds its blobs. The blobs are in a
// temporary directory, which remove deletes.
//
// The changelog must have a section on the version; lock, fragments and patches must be those embedded in
// this program. If the source is a git checkout, all of it must be committed: a release names its commit.
func Build(
	ctx context.Context, b *component.Builder, version string, lockData []byte,
) (r Release, remove func(), err error) {
	source, err := b.SourceDir(ctx)
	if err != nil {
		return r, nil, err
	}
	changelog, err := os.ReadFile(filepath.Join(source, "CHANGELOG.md"))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil, fmt.Errorf("%s has no CHANGELOG.md: a release is made from neb's checkout", source)
	}
	if err != nil {
		return r, nil, err
	}
	if err := CheckChangelog(string(changelog), version); err != nil {
		return r, nil, err
	}
	if err := CheckSource(source, lockData); err != nil {
		return r, nil, err
	}
	commit, err := headOf(ctx, source)
	if err != nil {
		return r, nil, err
	}
	if commit != "" {
		if err := checkCommitted(ctx, source); err != nil {
			return r, nil, err
		}
	}
	if err := b.Fetch(ctx, []lock.File{b.Lock.Kernel}); err != nil {
		return r, nil, err
	}
	if r, remove, err = buildBlobs(ctx, b, lockData); err != nil {
		return r, nil, err
	}
	r.Version, r.Host, r.Commit, r.KernelSource = version, runtime.GOARCH, commit, b.Store.Path(b.Lock.Kernel)
	return r, remove, nil
}

// Rebuild builds the blobs again from b's source, and compares the release with the one that they would
// become.
func (v *Verified) Rebuild(ctx context.Context, b *component.Builder, lockData []byte) ([]output.Finding,
	error) {
	source, err := b.SourceDir(ctx)
	if err != nil {
		return nil, err
	}
	if err := CheckSource(source, lockData); err != nil {
		return nil, err
	}
	commit, err := headOf(ctx, source)
	if err != nil {
		return nil, err
	}
	if err := v.MadeOf(commit); err != nil {
		return nil, err
	}
	r, remove, err := buildBlobs(ctx, b, lockData)
	if err != nil {
		return nil, err
	}
	defer remove()
	findings, err := v.Compare(r)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", v.Version, err)
	}
	return findings, nil
}

// buildBlobs builds all components for both architectures and writes them to a temporary directory.
func buildBlobs(ctx context.Context, b *component.Builder, lockData []byte) (r Release, remove func(),
	err error) {
	wanted := map[string][]string{}
	for _, arch := range component.Archs {
		wanted[arch] = component.Names
	}
	built, err := output.Build(ctx, b, wanted)
	if err != nil {
		return r, nil, err
	}
	work, err := os.MkdirTemp("", "neb-release-")
	if err != nil {
		return r, nil, err
	}
	remove = func() { _ = os.RemoveAll(work) }
	r = Release{Lock: lockData, Blobs: filepath.Join(work, "result")}
	if err := output.Write(r.Blobs, built); err != nil {
		remove()
		return r, nil, err
	}
	for _, set := range built {
		for _, o := range set.Outputs {
			r.Records = append(r.Records, o.Record)
		}
	}
	return r, remove, nil
}
