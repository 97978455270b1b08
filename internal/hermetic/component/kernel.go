package component

import (
	"archive/tar"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// kernelArch holds what the build of a kernel needs to know about each architecture.
var kernelArch = map[string]struct {
	arch string // the kernel's name of the architecture
	// prefix of the tools, the same on every host because the configuration contains their names
	cross  string
	target string // of make, and the name of the output
	image  string // path of what make makes
	set    string // of the lock, with the compiler
	fix    func(image *os.File) error

	options, objects int // of neb's own configuration, tools included
}{
	"x86_64": {
		arch: "x86_64", cross: "x86_64-linux-gnu-", target: "bzImage", image: "arch/x86/boot/bzImage",
		set:     lock.GCCx86_64,
		options: 998, objects: 1814,
	},
	"aarch64": {
		arch: "arm64", cross: "aarch64-linux-gnu-", target: "Image", image: "arch/arm64/boot/Image",
		set:     lock.GCCaarch64,
		options: 1021, objects: 1823,
		fix: func(image *os.File) error { return kernel.SetTextOffset(image) },
	},
}

// The two steps of building a kernel. Their comments list input and output.
var (
	//go:embed recipe/kernel-configure.sh
	kernelConfigure string
	//go:embed recipe/kernel-compile.sh
	kernelCompile string
)

// kernelEnv fixes what the kernel would take from the machine that builds it.
var kernelEnv = []string{
	"KBUILD_BUILD_TIMESTAMP=@0", // the kernel takes a bare 0 for the current time
	"KBUILD_BUILD_USER=neb",
	"KBUILD_BUILD_HOST=neb",
	"KBUILD_BUILD_VERSION=1",
	"XZ_DEFAULTS=-T0",
}

// kernelJob returns the job for a kernel, its configuration, command line and nsm.ko.
func (b *Builder) kernelJob(ctx context.Context, arch string) (job, error) {
	if err := kernel.Refuse(b.Fragments); err != nil {
		return job{}, fmt.Errorf("kernel %s: %w", arch, err)
	}
	a := kernelArch[arch]
	sets := []string{lock.Base, a.set}
	if b.other != nil {
		sets = append(sets, lock.OtherGCC)
	}
	tools, err := b.toolchain(sets...)
	if err != nil {
		return job{}, err
	}
	source, err := b.kernelSource(ctx)
	if err != nil {
		return job{}, err
	}
	fragments := slices.Concat(kernel.Fragments(arch), kernel.Profile(b.Profile, arch))
	fragments = append(kernel.Adapt(fragments, cmp.Or(b.Series, kernel.DefaultSeries)), b.Fragments...)
	patches := append(kernel.Patches(), b.Patches...)

	inputs := []Input{source.input}
	// The directory of a user's file does not change the output, and may be private.
	for _, p := range patches {
		inputs = append(inputs, textInput("patch", filepath.Base(p.Name), p.Text))
	}
	for _, f := range fragments {
		inputs = append(inputs, textInput("config fragment", filepath.Base(f.Name), f.Text))
	}
	inputs = append(inputs,
		textInput("command line", "cmdline", kernel.Cmdline(arch)),
		textInput("recipe", "kernel-configure.sh", kernelConfigure),
		textInput("recipe", "kernel-compile.sh", kernelCompile),
		textInput("recipe", "environment",
			strings.Join(append([]string{a.arch, a.cross, a.target, a.image, rootVersion,
				fmt.Sprint(kernel.TextOffset)}, kernelEnv...), "\n")),
	)
	inputs = append(inputs, tools.inputs()...)

	return job{name: "kernel", arch: arch, inputs: inputs,
		make: func(ctx context.Context, r *run) error {
			root, err := b.root(ctx, tools, source.fetch...)
			if err != nil {
				return err
			}
			if err := source.place(ctx, b, r); err != nil {
				return fmt.Errorf("kernel source: %w", err)
			}
			return b.compileKernel(ctx, r, root, fragments, patches)
		}}, nil
}

func (b *Builder) compileKernel(ctx context.Context, r *run, root string, fragments []kernel.Fragment,
	patches []kernel.Patch) error {
	a := kernelArch[r.arch]
	var all strings.Builder
	for _, f := range fragments {
		fmt.Fprintf(&all, "# %s\n%s\n", f.Name, f.Text)
	}
	texts := map[string]string{"all.config": all.String(), "configure.sh": kernelConfigure,
		"compile.sh": kernelCompile}
	var series strings.Builder
	for i, p := range patches {
		name := fmt.Sprintf("%04d.patch", i)
		texts[name] = p.Text
		fmt.Fprintln(&series, name)
	}
	texts["series"] = series.String()
	if err := place(r.work, "src", texts); err != nil {
		return err
	}

	env := append([]string{
		"ARCH=" + a.arch,
		"CROSS_COMPILE=" + a.cross,
		"TARGET=" + a.target,
		"IMAGE=" + a.image,
		"MAKEFLAGS=" + b.makeFlags(a.cross),
	}, kernelEnv...)
	command := func(script string) sandbox.Command {
		return sandbox.Command{Root: root, Env: env,
			Args: []string{"/bin/sh", "-eu", sandbox.Src + "/" + script}}
	}
	b.Progress.Send(progress.Event{Stage: r.title(), Note: "unpacking, patching and configuring the kernel"})
	if err := r.sandboxed(ctx, command("configure.sh")); err != nil {
		if refused := refusedPatch(r, patches); refused != nil {
			return refused
		}
		return errLogged{fmt.Errorf("configuring: %w", err)}
	}
	config, err := os.ReadFile(filepath.Join(r.work, "out", "config"))
	if err != nil {
		return err
	}
	if err := kernel.Check(fragments, config); err != nil {
		return err
	}
	names := b.Fragments
	if b.KernelSource == "" {
		names = fragments // a user's kernel may lack options of the locked one
	}
	if err := kernel.CheckNames(names, os.DirFS(filepath.Join(r.work, "build", "linux")),
		config); err != nil {
		return err
	}
	if len(b.Fragments) == 0 && len(b.Patches) == 0 && b.KernelSource == "" {
		// Users may weaken their own kernels. This finds changed defaults of a newer locked kernel.
		if err := kernel.CheckHardening(r.arch, config); err != nil {
			return fmt.Errorf("the configuration is less hardened than it must be: %w", err)
		}
	}

	r.log.count("compile "+r.title(), "objects", estimate(r.arch, config), isObject)
	if err := r.sandboxed(ctx, command("compile.sh")); err != nil {
		return errLogged{fmt.Errorf("compiling: %w", err)}
	}
	r.log.counted()

	for from, to := range map[string]string{"image": a.target, "config": a.target + ".config",
		"nsm.ko": "nsm.ko"} {
		if err := os.Rename(filepath.Join(r.work, "out", from), filepath.Join(r.dir, to)); err != nil {
			return err
		}
	}
	if a.fix != nil {
		image, err := os.OpenFile(filepath.Join(r.dir, a.target), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(a.fix(image), image.Close()); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(r.dir, "cmdline"), []byte(kernel.Cmdline(r.arch)+"\n"), 0o644)
}

// makeFlags returns the parameters of make: the number of jobs and, after [Builder.UseOther], the compiler.
func (b *Builder) makeFlags(cross string) string {
	flags := fmt.Sprintf("-j%d", b.jobs())
	if b.other != nil {
		const gcc = "gcc-" + lock.OtherGCCVersion
		flags += fmt.Sprintf(" -- CC=%s%s HOSTCC=%s%[2]s", cross, gcc, kernelArch[Host()].cross)
	}
	return flags
}

// object matches the lines that make prints for each object of the kernel and its tools.
var object = regexp.MustCompile(`^  (CC|AS|HOSTCC)( \[M\])? `)

func isObject(line string) bool { return object.MatchString(line) }

var optionOn = regexp.MustCompile(`(?m)^CONFIG_\w+=[ym]$`)

// estimate returns about how many objects a configuration compiles, from the number of its enabled options.
func estimate(arch string, config []byte) int64 {
	on := len(optionOn.FindAllIndex(config, -1))
	own := kernelArch[arch]
	return int64(on * own.objects / own.options)
}

// refusedPatch returns an error about the patch that did not apply, from what configure.sh left in /out, or
// nil.
func refusedPatch(r *run, patches []kernel.Patch) error {
	text, err := os.ReadFile(filepath.Join(r.work, "out", "patch"))
	if err != nil {
		return nil
	}
	// The last line is the number of the patch, the others are the messages of patch(1).
	said := strings.Split(strings.TrimSpace(string(text)), "\n")
	i, err := strconv.Atoi(strings.TrimSuffix(said[len(said)-1], ".patch"))
	if err != nil || i >= len(patches) {
		return nil
	}
	file, where := "", []string{}
	for _, line := range said[:len(said)-1] {
		if name, ok := strings.CutPrefix(line, "patching file "); ok {
			file = strings.Trim(name, "'")
			continue
		}
		where = append(where, strings.TrimSpace(file+": "+line))
	}
	return fmt.Errorf("patch %s does not apply to this kernel: %s", patches[i].Name,
		strings.Join(where, "; "))
}

// kernelSource is the source of a kernel.
type kernelSource struct {
	input Input
	fetch []lock.File
	// place writes it as work/src/linux.tar or as the directory work/build/linux.
	place func(ctx context.Context, b *Builder, r *run) error
}

func (b *Builder) kernelSource(ctx context.Context) (kernelSource, error) {
	locked, err := b.Lock.Source(b.Series)
	if err != nil {
		return kernelSource{}, err
	}
	if b.KernelSource == "" {
		return kernelSource{
			input: lockedInputs("kernel source", locked)[0],
			fetch: []lock.File{locked},
			place: func(ctx context.Context, b *Builder, r *run) error {
				return placeLockedKernel(ctx, b, r, locked)
			},
		}, nil
	}
	info, err := os.Stat(b.KernelSource)
	if err != nil {
		return kernelSource{}, fmt.Errorf("kernel source: %w", err)
	}
	// WalkDir does not follow a symbolic link as its root, and /usr/src/linux often is one.
	path, err := filepath.EvalSymlinks(b.KernelSource)
	if err != nil {
		return kernelSource{}, fmt.Errorf("kernel source: %w", err)
	}
	own := Input{Kind: "kernel source", Name: "user's own"}
	same := func(sum string, err error) error {
		if err == nil && sum != own.SHA256 {
			err = fmt.Errorf("%s changed during the build: SHA-256 was %s, is %s", b.KernelSource, own.SHA256,
				sum)
		}
		return err
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "Kconfig")); err != nil {
			return kernelSource{}, fmt.Errorf("kernel source: %s has no file Kconfig: "+
				"expected the top directory of a kernel source tree", b.KernelSource)
		}
		own.SHA256, err = hashTree(ctx, path)
		return kernelSource{input: own, place: func(ctx context.Context, b *Builder, r *run) error {
			copied := filepath.Join(r.work, "build", "linux")
			if err := tree.Copy(ctx, path, copied, false, ".git"); err != nil {
				return err
			}
			return same(hashTree(ctx, copied))
		}}, err
	}
	own.SHA256, own.Size, err = stream.SHA256(ctx, path)
	return kernelSource{input: own, place: func(ctx context.Context, b *Builder, r *run) error {
		copied := filepath.Join(r.work, "src", "linux.tar")
		if err := tree.CopyFile(ctx, path, copied, 0o644); err != nil {
			return err
		}
		sum, _, err := stream.SHA256(ctx, copied)
		return same(sum, err)
	}}, err
}

// placeLockedKernel extracts the source tarball from its Debian package.
func placeLockedKernel(ctx context.Context, b *Builder, r *run, source lock.File) error {
	deb, err := os.Open(b.Store.Path(source))
	if err != nil {
		return err
	}
	defer deb.Close()
	data, err := debian.Data(deb)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(data); ; {
		h, err := archive.Next()
		if err != nil {
			return fmt.Errorf("%s: usr/src/linux-source-*.tar.xz not found: %w", source.Path, err)
		}
		if ok, _ := path.Match("usr/src/linux-source-*.tar.xz", strings.TrimPrefix(h.Name, "./")); ok &&
			h.Typeflag == tar.TypeReg {
			return tree.WriteFile(filepath.Join(r.work, "src", "linux.tar"), 0o644,
				stream.Reader(ctx, archive))
		}
	}
}
