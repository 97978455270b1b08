//go:build linux

package cli

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/resolve"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

const emulatorTarget = "emulator"

// buildReport is what neb build --json prints.
type buildReport struct {
	Output   string      `json:"output,omitempty"` // the directory of the result
	Files    []builtFile `json:"files,omitempty"`
	Emulator string      `json:"emulator,omitempty"` // the emulator's directory
}

type builtFile struct {
	Path   string `json:"path"` // relative to Output
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

func newBuildCommand(s streams) *cobra.Command {
	var (
		flags   buildFlags
		dir     string
		missing bool
		asJSON  bool
	)
	targets := targetsWith(emulatorTarget)
	cmd := &cobra.Command{
		Use:   "build [" + strings.Join(targets, "|") + "]...",
		Short: "Build the blobs of an enclave: kernel, nsm.ko, init and linuxkit",
		Long: `Build the blobs of an enclave from neb.lock and neb's source, in a sandbox: every machine
builds the same bytes.

Without arguments, neb builds all blobs for this machine's architecture. The result has a directory for each
architecture, which nitro-cli accepts as its blobs directory.

Packages are downloaded from NEB_MIRROR if it is set, then from the mirrors of this machine's apt, then from
the archive of Debian snapshots. The Go toolchain is downloaded from GOPROXY. neb checks the hash of each file
against neb.lock and keeps the file in the store (see 'neb cache').`,
		ValidArgsFunction: each(targets),
		RunE: func(cmd *cobra.Command, args []string) error {
			archs, err := flags.arch()
			if err != nil {
				return err
			}
			names, emulator, err := chosen(args, emulatorTarget)
			if err != nil {
				return err
			}
			if len(names) > 0 {
				if err := output.Check(dir); err != nil {
					return err
				}
			}
			b, done, err := flags.builder(cmd.Context(), s)
			if err != nil {
				return err
			}
			defer done()
			for _, warning := range kernel.Warn(b.Fragments) {
				complain(s, "warning: %s", warning)
			}

			ctx := cmd.Context()
			var report buildReport
			build := func() (err error) {
				report, err = buildTargets(ctx, b, names, archs, dir, emulator)
				return err
			}
			if missing {
				var o resolve.Options
				if o.Mirrors, err = fetch.OfMachine(ctx, "/", flags.mirrorOnly); err != nil {
					return err
				}
				o.Progress = resolving(s)
				err = updateMissing(ctx, s, b, o, build)
			} else {
				err = build()
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, report)
			}
			for _, f := range report.Files {
				printLine(s.out, "%s  %s", f.SHA256, filepath.Join(report.Output, f.Path))
			}
			if report.Emulator != "" {
				printLine(s.out, "%v", report.Emulator)
			}
			return nil
		},
	}
	flags.addArch(cmd)
	flags.add(cmd)
	flags.addKernel(cmd)
	cmd.Flags().BoolVar(&missing, "update-missing", false,
		"use newer versions of locked files that are gone from the mirrors, and list them; "+
			"the output then differs from the lock's")
	cmd.Flags().StringVar(&flags.pushKey, "push", "",
		"sign what is built with this private `key`, a PEM file or an ARN, and push it to the remotes")
	cmd.Flags().BoolVar(&flags.wait, "wait", false,
		"if another builder is building the same, wait for its result; needs --push")
	cmd.Flags().StringVarP(&dir, "output", "o", "result", "`directory` of the result")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was built as JSON")
	return cmd
}

// targetsWith returns the targets of commands that work on components and on one thing more.
func targetsWith(other string) []string {
	return slices.Concat([]string{"all"}, component.Names, []string{other})
}

// chosen returns the components that targets name, all of them if there are none, and whether the other thing
// is among them.
func chosen(args []string, other string) (names []string, hasOther bool, err error) {
	targets := targetsWith(other)
	for _, arg := range args {
		if !slices.Contains(targets, arg) {
			return nil, false, usagef("unknown target %q: expected %s", arg, strings.Join(targets, ", "))
		}
	}
	names = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == other })
	if len(args) == 0 || slices.Contains(args, "all") {
		names = component.Names
	}
	return names, slices.Contains(args, other), nil
}

// addArch adds the flag of commands that work on several architectures at once.
func (f *buildFlags) addArch(cmd *cobra.Command) {
	both := strings.Join(component.Archs, ",")
	cmd.Flags().StringSliceVar(&f.archs, "arch", nil,
		"x86_64, aarch64 or "+both+" (default: this machine's architecture)")
	choices(cmd, "arch", append(slices.Clone(component.Archs), both)...)
}

// buildTargets builds the emulator, if that is wanted, and components, and writes them to dir.
func buildTargets(
	ctx context.Context, b *component.Builder, names, archs []string, dir string, emulator bool,
) (report buildReport, err error) {
	if emulator {
		if report.Emulator, err = b.Emulator(ctx); err != nil {
			return report, err
		}
	}
	if len(names) == 0 {
		return report, nil
	}
	wanted := map[string][]string{}
	for _, a := range archs {
		wanted[a] = names
	}
	built, err := output.Build(ctx, b, wanted)
	if err != nil {
		return report, err
	}
	if err := output.Write(dir, built); err != nil {
		return report, err
	}
	report.Output = dir
	for _, set := range built {
		for _, o := range set.Outputs {
			for _, f := range o.Files {
				report.Files = append(report.Files, builtFile{set.Arch + "/" + f.Name, f.Size, f.SHA256})
			}
		}
	}
	return report, nil
}

// arch returns the architectures of --arch, each once, in the order of [component.Archs].
func (f *buildFlags) arch() ([]string, error) {
	if len(f.archs) == 0 {
		return []string{arch.Host()}, nil
	}
	for _, a := range f.archs {
		if !slices.Contains(component.Archs, a) {
			return nil, usagef("invalid --arch %q: expected %s", a, strings.Join(component.Archs, " or "))
		}
	}
	unwanted := func(a string) bool { return !slices.Contains(f.archs, a) }
	return slices.DeleteFunc(slices.Clone(component.Archs), unwanted), nil
}
