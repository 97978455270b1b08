package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// addKernel adds the flags that change the kernel.
func (f *buildFlags) addKernel(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.series, "kernel", "",
		"`series` of the kernel, one of those in neb.lock (default: "+kernel.DefaultSeries+")")
	flags.StringVar(&f.profile, "profile", "",
		"`name` of a kernel for other than classic enclaves: "+strings.Join(kernel.Profiles(), ", "))
	choices(cmd, "profile", kernel.Profiles()...)
	flags.StringArrayVar(&f.fragments, "config-fragment", nil,
		"`file` with kernel options, in the syntax of .config; repeatable")
	flags.StringArrayVar(&f.patches, "patch", nil,
		"`file` with a kernel patch, applied with patch -p1; repeatable")
	flags.StringVar(&f.kernelSource, "kernel-source", "",
		"`path` of another kernel source, a directory or tarball; neb's patches are applied")
	allowEmpty(cmd, "kernel-source")
}

// builder opens the store and returns a builder set up by the flags. The second result closes both.
func (f *buildFlags) builder(ctx context.Context, s streams) (*component.Builder, func(), error) {
	if f.jobs < 0 {
		return nil, nil, usagef("invalid --jobs %d: expected a positive number", f.jobs)
	}
	if f.profile != "" && !slices.Contains(kernel.Profiles(), f.profile) {
		return nil, nil, usagef("invalid --profile %q: expected %s", f.profile,
			strings.Join(kernel.Profiles(), " or "))
	}
	locked, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return nil, nil, err
	}
	b := &component.Builder{
		Lock: locked, Source: f.source, Jobs: f.jobs, Offline: f.offline, MirrorOnly: f.mirrorOnly,
		KernelSource: f.kernelSource, Series: f.series, Profile: f.profile,
	}
	if _, err := locked.Source(f.series); err != nil {
		return nil, nil, usagef("invalid --kernel: %v", err)
	}
	for _, path := range f.fragments {
		text, err := readSmall(path)
		if err != nil {
			return nil, nil, fmt.Errorf("--config-fragment: %w", err)
		}
		b.Fragments = append(b.Fragments, kernel.Fragment{Name: path, Text: string(text)})
	}
	for _, path := range f.patches {
		text, err := readSmall(path)
		if err != nil {
			return nil, nil, fmt.Errorf("--patch: %w", err)
		}
		b.Patches = append(b.Patches, kernel.Patch{Name: path, Text: string(text)})
	}
	if b.Store, err = store.Open(""); err != nil {
		return nil, nil, err
	}
	if b.Sharing, err = f.sharing(ctx); err != nil {
		return nil, nil, err
	}
	p := newProgress(s.err)
	b.Progress = p.event
	return b, func() {
		p.close()
		_ = b.Store.Close()
	}, nil
}

// sharingBuilder is builder for commands that need a remote.
func (f *buildFlags) sharingBuilder(ctx context.Context, s streams) (*component.Builder, func(), error) {
	b, done, err := f.builder(ctx, s)
	if err == nil && b.Sharing == nil {
		done()
		err = usagef("--remote is required, or NEB_REMOTE")
	}
	return b, done, err
}

// sharing returns how to share builds, or nil if there is no remote.
func (f *buildFlags) sharing(ctx context.Context) (*component.Sharing, error) {
	names := f.remotes
	if len(names) == 0 {
		names = strings.FieldsFunc(os.Getenv("NEB_REMOTE"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(names) == 0 {
		for flag, given := range map[string]bool{
			"--require": f.require != 0, "signing": f.pushKey != "", "--wait": f.wait,
		} {
			if given {
				return nil, usagef("%s needs a remote: give --remote, or set NEB_REMOTE", flag)
			}
		}
		return nil, nil
	}
	if f.wait && f.pushKey == "" {
		return nil, usagef("--wait needs --push: others wait for what this build pushes")
	}
	s := &component.Sharing{Require: f.require, Wait: f.wait}
	if text := os.Getenv("NEB_REMOTE_REQUIRE"); f.require == 0 && text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, usagef("invalid NEB_REMOTE_REQUIRE %q: expected a positive number", text)
		}
		s.Require = n
	}
	if f.require < 0 {
		return nil, usagef("invalid --require %d: expected a positive number", f.require)
	}
	var err error
	if s.Keys, err = openKeys(); err != nil {
		return nil, err
	}
	if f.pushKey != "" {
		if s.Signer, err = sign.ReadKey(ctx, f.pushKey); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		r, err := remote.Open(ctx, name)
		if err != nil {
			return nil, err
		}
		s.Remotes = append(s.Remotes, r)
	}
	return s, nil
}

// A blobBuilder builds blobs for an EIF and runs programs of the locked erofs-utils in the sandbox. It opens
// the store when it is first used, and what it built stays there until it is closed.
type blobBuilder struct {
	s     streams
	flags buildFlags
	b     *component.Builder
	done  func()
}

func newBlobBuilder(s streams, flags buildFlags) *blobBuilder {
	return &blobBuilder{s: s, flags: flags}
}

func (t *blobBuilder) open(ctx context.Context) (err error) {
	if t.b == nil {
		t.b, t.done, err = t.flags.builder(ctx, t.s)
	}
	return err
}

func (t *blobBuilder) close() {
	if t.done != nil {
		t.done()
	}
}

// blobs builds components, or takes them from the store.
func (t *blobBuilder) blobs(ctx context.Context, arch string, names []string) (blobs pack.Blobs, err error) {
	if err := t.open(ctx); err != nil {
		return blobs, err
	}
	for _, name := range names {
		out, err := t.b.Build(ctx, arch, name)
		if err != nil {
			return blobs, err
		}
		if name == "init" {
			blobs.Init = filepath.Join(out[0].Dir, "init")
		} else {
			blobs = pack.BlobsIn(out[0].Dir, arch)
		}
	}
	return blobs, nil
}

// Work implements inspect.Tools.
func (t *blobBuilder) Work(ctx context.Context) (string, error) {
	if err := t.open(ctx); err != nil {
		return "", err
	}
	return t.b.Store.Work(ctx)
}

// Run implements inspect.Tools.
func (t *blobBuilder) Run(ctx context.Context, work string, args ...string) error {
	return t.b.Tool(ctx, []string{lock.EROFS}, work, args...)
}
