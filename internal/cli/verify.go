//go:build linux

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/release"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// verifyOptions are the flags of neb verify.
type verifyOptions struct {
	build        buildFlags
	cached       bool
	asJSON       bool
	archive, key string // of a release
	signKey      string
	toolchain    string // "other", or "" for the locked one
}

func newVerifyCommand(s streams) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [DIR [--toolchain other] | --release FILE]",
		Short: "Build again and compare the result with DIR, file by file",
		Long: `Build the blobs in DIR (default: result) again from this source and lock, and compare them file
by file. If DIR was built with a profile, kernel options, patches or another kernel source, give the same
flags.

With --toolchain other, Debian's Go first compiles neb's Go toolchain from its source. The toolchain must
come out the same, and so must init and linuxkit. An older gcc builds the kernel; neb lists how it differs,
which is no error.

With --release, verify the archive of a release: its checksums, its provenance, and its blobs against a new
build. If keys are trusted for releases (see 'neb trust add'), the signed index, beside the archive or in a
remote, must name it as the newest release.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.archive == "" {
				if o.key != "" {
					return usagef("--release-key needs --release")
				}
				if o.toolchain != "" && o.toolchain != "other" {
					return usagef("invalid --toolchain %q: the only value is other", o.toolchain)
				}
				if o.toolchain != "" && o.signKey != "" {
					return usagef("--toolchain cannot be combined with --sign")
				}
				dir := "result"
				if len(args) == 1 {
					dir = args[0]
				}
				return o.verifyDir(cmd.Context(), s, dir)
			}
			if len(args) > 0 {
				return usagef("--release cannot be combined with the argument %s", args[0])
			}
			for _, name := range []string{
				"profile", "config-fragment", "kernel", "kernel-source", "patch", "toolchain",
			} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s cannot be combined with --release", name)
				}
			}
			return o.verifyRelease(cmd.Context(), s)
		},
	}
	o.build.add(cmd)
	o.build.addKernel(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.cached, "cached", false, "trust earlier builds in the store, and build only what it lacks")
	f.BoolVar(&o.asJSON, "json", false, "print the findings as JSON")
	f.StringVar(&o.archive, "release", "",
		"verify the archive of a release: a `file` with the release's other files beside it")
	f.StringVar(&o.signKey, "sign", "",
		"if DIR is right, sign a statement of it with this private `key`, a PEM file or an ARN, "+
			"and push it to the remotes")
	f.StringVar(&o.toolchain, "toolchain", "",
		"`other`: build with the second compilers of the lock, to check the first ones")
	f.StringVar(&o.key, "release-key", "",
		"require that the key in this PEM `file` signed the release's provenance")
	return cmd
}

func (o *verifyOptions) verifyDir(ctx context.Context, s streams, dir string) error {
	wanted, err := output.Components(dir)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	o.build.pushKey = o.signKey
	b, done, err := o.build.builder(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	if o.signKey != "" && o.cached {
		return usagef("--sign cannot be combined with --cached: the statement is about a build of this " +
			"machine")
	}
	b.Fresh = !o.cached
	var findings []output.Finding
	compare := output.Compare
	if o.toolchain != "" {
		compare = output.CompareOther
		f, err := output.CompareGo(ctx, b)
		if err != nil {
			return err
		}
		findings = append(findings, f)
	}
	built, err := output.Build(ctx, b, wanted)
	if err != nil {
		return err
	}
	files, err := compare(dir, built)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	findings = append(findings, files...)
	if err := o.report(s, dir, findings, ""); err != nil || o.signKey == "" {
		return err
	}
	for _, set := range built {
		if err := b.State(ctx, set.Outputs); err != nil {
			return err
		}
	}
	return nil
}

func (o *verifyOptions) verifyRelease(ctx context.Context, s streams) error {
	v, err := release.Verify(o.archive, neb.LockFile)
	if err != nil {
		return err
	}
	if o.key != "" {
		key, err := sign.ReadPublicKey(o.key)
		if err != nil {
			return fmt.Errorf("--release-key: %w", err)
		}
		if err := v.Signed(key); err != nil {
			return err
		}
	}
	b, done, err := o.build.builder(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	if err := checkNewest(ctx, s, v, b); err != nil {
		return err
	}
	b.Fresh = !o.cached
	findings, err := v.Rebuild(ctx, b, neb.LockFile)
	if err != nil {
		return err
	}
	return o.report(s, o.archive, findings, "; is this the source of release "+v.Version+"?")
}

// checkNewest checks that a release is the newest one, if this user trusts keys for the index of releases.
// The index is that of the first remote that has one, or else the file beside the archive.
func checkNewest(ctx context.Context, s streams, v *release.Verified, b *component.Builder) error {
	keys, err := openKeys()
	if err != nil {
		return err
	}
	if !keys.Has(trust.Releases) {
		complain(s, "not checked whether %s is the newest release: no key is trusted for releases", v.Version)
		return nil
	}
	if b.Sharing != nil && !b.Offline {
		for _, r := range b.Sharing.Remotes {
			index, err := r.Index(ctx)
			if err != nil {
				complain(s, "%v", err)
				continue
			}
			if err := v.Newest(index, keys, time.Now()); err != nil {
				return fmt.Errorf("%v: %w", r, err)
			}
			return nil
		}
	}
	return v.Newest(nil, keys, time.Now())
}

// report prints the findings about what, and fails if they are not all the same. The error ends with hint.
func (o *verifyOptions) report(s streams, what string, findings []output.Finding, hint string) error {
	if o.asJSON {
		if err := printJSON(s, findings); err != nil {
			return err
		}
	}
	wrong := 0
	for _, f := range findings {
		if f.State != output.Same && f.State != output.Varies {
			wrong++
		}
		if o.asJSON {
			continue
		}
		line := fmt.Sprintf("%-10s  %s", f.State, f.Path)
		if f.State == output.Different && f.Expected != "" {
			line += fmt.Sprintf("  (expected SHA-256 %s, found %s)", f.Expected, f.Found)
		}
		printLine(s.out, "%s", line)
		for _, detail := range f.Details {
			printLine(s.out, "            %s", detail)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%s: %d of %d files differ from what this source and lock build%s",
			what, wrong, len(findings), hint)
	}
	return nil
}
