package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// buildFlags are the flags of every command that builds.
type buildFlags struct {
	archs        []string
	jobs         int
	offline      bool
	source       string
	fragments    []string
	patches      []string
	kernelSource string
}

func (f *buildFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVarP(&f.jobs, "jobs", "j", 0, "processes at once (default: one for each processor)")
	flags.BoolVar(&f.offline, "offline", false, "use what is in the store, fetch nothing")
	flags.StringVar(&f.source, "source", "", "neb's source tree, for init and linuxkit (default: $NEB_SOURCE, the checkout around this directory, or the version of this neb)")
	flags.StringArrayVar(&f.fragments, "config-fragment", nil, "kernel options of your own, as a `file` in the form of .config (repeatable)")
	flags.StringVar(&f.kernelSource, "kernel-source", "", "a kernel of your own, as a directory or tarball; neb's patches are applied to it")
	for _, name := range []string{"source", "kernel-source"} { // neb's own
		_ = flags.SetAnnotation(name, emptySays, nil)
	}
	flags.StringArrayVar(&f.patches, "patch", nil, "a patch of your own for the kernel, as a `file` for patch -p1 (repeatable)")
}

func (f *buildFlags) addArch(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.archs, "arch", nil, "architectures: x86_64, aarch64 or both (default: this machine's)")
	choices(cmd, "arch", append(slices.Clone(component.Archs), strings.Join(component.Archs, ","))...)
}

// arch returns the architectures asked for, each once, in their order of [component.Archs].
func (f *buildFlags) arch() ([]string, error) {
	if len(f.archs) == 0 {
		return []string{component.Host()}, nil
	}
	for _, a := range f.archs {
		if !slices.Contains(component.Archs, a) {
			return nil, usagef("unknown architecture %q, expected %s", a, strings.Join(component.Archs, " or "))
		}
	}
	return slices.DeleteFunc(slices.Clone(component.Archs), func(a string) bool { return !slices.Contains(f.archs, a) }), nil
}

// builder opens the store and makes a builder of what the flags say. The second result closes it.
func (f *buildFlags) builder(s streams) (*component.Builder, func(), error) {
	if f.jobs < 0 {
		return nil, nil, usagef("--jobs %d: expected a positive number", f.jobs)
	}
	locked, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return nil, nil, err
	}
	b := &component.Builder{Lock: locked, Source: f.source, Jobs: f.jobs, Offline: f.offline, KernelSource: f.kernelSource}
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
	p := newProgress(s.err)
	b.Progress = p.event
	return b, func() {
		p.close()
		_ = b.Store.Close()
	}, nil
}

// sets builds components by architecture.
func sets(ctx context.Context, b *component.Builder, wanted map[string][]string) ([]output.Set, error) {
	if err := b.CheckStore(ctx, wanted); err != nil {
		return nil, err
	}
	var built []output.Set
	for _, arch := range component.Archs {
		if len(wanted[arch]) == 0 {
			continue
		}
		outputs, err := b.Build(ctx, arch, wanted[arch]...)
		if err != nil {
			return nil, err
		}
		built = append(built, output.Set{Arch: arch, Outputs: outputs})
	}
	return built, nil
}

const emulatorTarget = "emulator"

// buildReport is what neb build --json prints.
type buildReport struct {
	Output   string      `json:"output,omitempty"` // the result's directory
	Files    []builtFile `json:"files,omitempty"`
	Emulator string      `json:"emulator,omitempty"` // its directory
}

type builtFile struct {
	Path   string `json:"path"` // below Output
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func newBuildCommand(s streams) *cobra.Command {
	var (
		flags  buildFlags
		dir    string
		asJSON bool
	)
	targets := slices.Concat([]string{"all"}, component.Names, []string{emulatorTarget})
	cmd := &cobra.Command{
		Use:   "build [" + strings.Join(targets, "|") + "]...",
		Short: "Build the blobs of an enclave: kernel, nsm.ko, init and linuxkit",
		Long: `Build the blobs of an enclave from neb.lock and neb's source, in a sandbox: the same bytes on any machine.

Without arguments the whole set is built, for this machine's architecture. The result is a directory for each
architecture that can be handed to nitro-cli as its blobs directory.

Downloads come from NEB_MIRROR if it is set, then from the mirrors that apt uses here, then from the archive of Debian
snapshots; the Go toolchain comes from GOPROXY. Each is checked by the hash in neb.lock, and kept in the store (see
'neb cache').`,
		ValidArgsFunction: each(targets),
		RunE: func(cmd *cobra.Command, args []string) error {
			archs, err := flags.arch()
			if err != nil {
				return err
			}
			for _, arg := range args {
				if !slices.Contains(targets, arg) {
					return usagef("unknown target %q, expected %s", arg, strings.Join(targets, ", "))
				}
			}
			names := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == emulatorTarget })
			if len(args) == 0 || slices.Contains(args, "all") {
				names = component.Names
			}
			if len(names) > 0 {
				if err := output.Check(dir); err != nil {
					return err
				}
			}
			b, done, err := flags.builder(s)
			if err != nil {
				return err
			}
			defer done()
			for _, warning := range kernel.Warn(b.Fragments) {
				fmt.Fprintf(s.err, "warning: %s\n", warning)
			}

			var report buildReport
			if slices.Contains(args, emulatorTarget) {
				if report.Emulator, err = b.Emulator(cmd.Context()); err != nil {
					return err
				}
			}
			if len(names) > 0 {
				wanted := map[string][]string{}
				for _, arch := range archs {
					wanted[arch] = names
				}
				built, err := sets(cmd.Context(), b, wanted)
				if err != nil {
					return err
				}
				if err := output.Write(dir, built); err != nil {
					return err
				}
				report.Output = dir
				for _, set := range built {
					for _, o := range set.Outputs {
						for _, f := range o.Files {
							report.Files = append(report.Files, builtFile{set.Arch + "/" + f.Name, f.Size, f.SHA256})
						}
					}
				}
			}
			if asJSON {
				return printJSON(s, report)
			}
			for _, f := range report.Files {
				fmt.Fprintf(s.out, "%s  %s\n", f.SHA256, filepath.Join(report.Output, f.Path))
			}
			if report.Emulator != "" {
				fmt.Fprintln(s.out, report.Emulator)
			}
			return nil
		},
	}
	flags.addArch(cmd)
	flags.add(cmd)
	cmd.Flags().StringVarP(&dir, "output", "o", "result", "the directory for what is built")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was built as JSON")
	return cmd
}

func printJSON(s streams, v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "\t")
	return enc.Encode(v)
}
