package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/epoch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// eifBuild are the flags of neb eif build.
type eifBuild struct {
	build            pack.Build // flags of the same name are set here
	image, dockerURI string
	blobs            string     // directory
	own              pack.Blobs // kernel, configuration, init and driver that replace those of blobs
	packages         []string   // with a ready kernel, as FILE or FILE@sha256:HEX
	workdir, user    string
	stopSignal       string
	loopback         bool
	nsmMode          string
	metadata         string
	rootFormat       string
	compat           string
	allow            []string
	key              keyFlags
	output           string
	missing          buildFlags     // of missing blobs
	given            *pflag.FlagSet // knows which flags were given
}

// nitroCLI is the value of --compat.
const nitroCLI = "nitro-cli"

func newEIFBuildCommand(s streams) *cobra.Command {
	var o eifBuild
	cmd := &cobra.Command{
		Use:   "build (--image REFERENCE | --rootfs DIR|TAR) --output FILE",
		Short: "Build an Enclave Image File from a container image",
		Long: `Build an Enclave Image File from a container image, or from a directory or tar archive, and the
blobs of 'neb build'.

An image is a registry reference (alpine:3), docker-daemon:NAME, docker-archive:FILE, oci-archive:FILE or
oci:DIR. Only docker-daemon: needs a Docker engine.

The same image, blobs and options give the same bytes on every machine. The measurements go to standard
output, in the form of nitro-cli build-enclave.`,
		Example: `  neb eif build --image alpine:3 --cmd /bin/date --output date.eif
  neb eif build --image docker-daemon:hello --output hello.eif --signing-certificate c.pem --private-key k.pem
  neb eif build --rootfs ./tree --entrypoint /server --arch aarch64 --output server.eif`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.given = cmd.Flags()
			return o.run(cmd.Context(), s)
		},
	}
	f, b, v := cmd.Flags(), &o.build, &o.build.Overrides
	f.StringVar(&o.image, "image", "", "`reference` of the container image: see above for its forms")
	f.StringVar(&o.dockerURI, "docker-uri", "",
		"`name` of the container image as in nitro-cli: from the Docker engine, else from its registry")
	f.StringVar(&b.RootFS, "rootfs", "",
		"`path` of the application's root, a directory or tar archive, instead of an image")
	f.StringVar(&b.Arch, "arch", arch.Host(), "architecture of the enclave: x86_64 or aarch64")
	f.StringVar(&o.blobs, "blobs", "", "`directory` with the blobs (default: what 'neb build' builds)")
	f.StringVar(&o.own.Kernel, "kernel", "", "kernel `file`, bzImage or Image, instead of the blob")
	f.StringArrayVar(&o.packages, "kernel-package", nil,
		"Debian or RPM package `FILE[@sha256:HEX]` with a ready kernel and its modules, instead of the "+
			"blob; repeatable for a kernel in several packages")
	f.StringVar(&o.own.Config, "kernel-config", "", "kernel configuration `file` instead of the blob")
	f.StringVar(&b.Cmdline, "cmdline", "", "`text` of the kernel command line instead of the blob")
	f.StringVar(&o.own.Init, "init", "", "`file` of PID 1 instead of the blob")
	f.StringVar(&o.own.NSM, "nsm", "", "nsm.ko `file` instead of the blob; empty for none")
	f.StringVar(&b.Name, "name", "",
		"image `name` in the metadata (default: the label org.opencontainers.image.title)")
	f.StringVar(&b.Version, "version", "",
		"image `version` in the metadata (default: the digest of the image's configuration)")
	f.StringVar(&o.metadata, "metadata", "", "`file` with a JSON object for the metadata, at most 4096 bytes")
	f.StringArrayVar(&v.Entrypoint, "entrypoint", nil,
		"one `argument` of the entrypoint that replaces the image's ENTRYPOINT; repeatable; empty for none")
	f.StringArrayVar(&v.Cmd, "cmd", nil,
		"one `argument` of the command that replaces the image's CMD; repeatable")
	f.StringArrayVar(&v.Env, "env", nil, "environment variable to set, as `K=V`; repeatable")
	f.StringVar(&o.workdir, "workdir", "", "working `directory`; empty clears the image's value")
	f.StringVar(&o.user, "user", "", "`user[:group]` of the application; empty clears the image's value")
	f.StringVar(&o.stopSignal, "stop-signal", "",
		"`signal` for processes that outlive the application; empty clears the image's value")
	f.StringVar(&v.Hostname, "hostname", "", "host `name` of the enclave (default: enclave)")
	f.BoolVar(&o.loopback, "loopback", true,
		"set up lo with 127.0.0.1 and ::1; --loopback=false leaves that to the application")
	f.StringVar(&v.NSMOwner, "nsm-owner", "",
		"`user[:group]` that owns /dev/nsm (default: the application's user)")
	f.StringVar(&o.nsmMode, "nsm-mode", "", "permissions of /dev/nsm, `octal` (default: 0600)")
	f.Uint32Var(&v.ExitReport, "exit-report", 0,
		"vsock `port` of the parent to report the application's end to (default: none)")
	f.BoolVar(&v.Network, "net", false, "give the enclave a network through its parent (see 'neb net serve')")
	f.StringArrayVar(&v.Egress, "egress", nil,
		"with --net: what the enclave may reach, `HOST[:PORT[-PORT]][/tcp|/udp]`, where HOST is NAME, "+
			"*.NAME, *, an address or a prefix; or imds, or vsock; repeatable (default: everything but imds)")
	f.StringArrayVar(&v.Ingress, "ingress", nil,
		"with --net: ports at which the enclave may be reached, `PORT[-PORT][/tcp|/udp]`; repeatable "+
			"(default: all)")
	f.StringArrayVar(&v.CapAdd, "cap-add", nil,
		"`capability` that the application gets beyond Docker's default ones, such as NET_ADMIN, or ALL; "+
			"repeatable")
	f.StringArrayVar(&v.CapDrop, "cap-drop", nil,
		"`capability` that the application does not get, or ALL; repeatable")
	f.BoolVar(&v.NoNewPrivileges, "no-new-privileges", false,
		"set-UID programs and file capabilities have no effect")
	f.BoolVar(&v.Pid1, "pid1", false, "the application takes init's place as process 1")
	f.Uint32Var(&v.LogPort, "log-port", 0,
		"vsock `port` of the parent to send the application's output to as well (default: none)")
	f.StringArrayVar(&b.Modules, "module", nil,
		"kernel module `file` to load after nsm.ko, in this order; repeatable")
	f.BoolVar(&b.ModulesOpen, "modules-open", false, "allow the enclave to load further modules")
	f.StringVar(&o.rootFormat, "rootfs-format", string(pack.CPIO),
		"`format` of the application's tree: cpio, or erofs (compressed, needs less memory)")
	f.StringVar(&o.compat, "compat", "",
		"`tool` whose registers to reproduce from the same blobs: nitro-cli")
	f.StringArrayVar(&o.allow, "allow", nil,
		"`what` to allow: userns or io_uring to the application, or the code of a finding of "+
			"'neb eif check', which then does not stop the build; repeatable")
	f.StringVarP(&o.output, "output", "o", "", "`file` to write")
	alwaysJSON(cmd)
	o.missing.add(cmd)
	o.key.add(cmd)
	choices(cmd, "arch", arch.X86_64, arch.AArch64)
	choices(cmd, "rootfs-format", string(pack.CPIO), string(pack.Erofs))
	choices(cmd, "compat", nitroCLI)
	allowEmpty(cmd, "nsm", "workdir", "user", "stop-signal")
	aliases(cmd, map[string]string{"output-file": "output", "image_name": "name", "image_version": "version"})
	return cmd
}

// toolVersion is in the metadata of what neb eif build writes. It counts changes of the output, not releases,
// so that every neb with the same output writes the same bytes.
const toolVersion = "1"

func (o *eifBuild) run(ctx context.Context, s streams) (err error) {
	b := &o.build
	if err := o.check(); err != nil {
		return err
	}
	b.RootFormat, b.NitroCLI, b.Tool = pack.RootFormat(o.rootFormat), o.compat == nitroCLI, toolVersion
	b.Warn = func(line string) { complain(s, "%s", line) }
	if b.Epoch, err = epoch.FromEnvironment(); err != nil {
		return err
	}
	if b.Signer, err = o.key.signer(ctx); err != nil {
		return err
	}
	if o.metadata != "" {
		if b.Metadata, err = pack.ReadMetadata(o.metadata); err != nil {
			return err
		}
	}
	// Everything that can be wrong is checked before blobs are built.
	if err := o.checkFiles(); err != nil {
		return err
	}
	if len(o.packages) > 0 {
		work, err := o.unpackKernel(ctx)
		defer os.RemoveAll(work)
		if err != nil {
			return fmt.Errorf("--kernel-package: %w", err)
		}
	}
	builder := newBlobBuilder(s, o.missing)
	defer builder.close()
	b.ErofsTools = builder
	if b.RootFS == "" {
		if b.Image, err = o.openImage(ctx, s); err != nil {
			return err
		}
		defer b.Image.Close()
	}
	if err := b.Check(); err != nil {
		return err
	}
	if b.Image != nil && b.Image.Config().Architecture == "" {
		complain(s, "the image's configuration names no architecture: assuming --arch %s", b.Arch)
	}
	if b.Blobs, err = o.findBlobs(ctx, builder); err != nil {
		return err
	}
	if b.Blobs.Cmdline == "" && b.Cmdline == "" {
		b.Cmdline = kernel.Cmdline(b.Arch)
	}

	bar := newProgress(s.err)
	b.Progress = func(done, total int64) {
		bar.event(progress.Event{Stage: "pack", Done: done, Total: total, Unit: "bytes"})
	}
	var result *pack.Result
	err = atomicfile.Write(o.output, func(f *os.File) error {
		result, err = b.To(ctx, f)
		return err
	})
	bar.close()
	if err != nil {
		return fmt.Errorf("%s: %w", o.output, err)
	}
	complain(s, "%s: %d bytes; the enclave needs at least %d MiB of memory",
		o.output, result.Size, result.Memory>>20)
	return printMeasurements(s, result.Measurements)
}

// check checks the flags' values, and sets the fields of the build that depend on which flags were given.
func (o *eifBuild) check() error {
	sources := 0
	for _, source := range []string{o.image, o.dockerURI, o.build.RootFS} {
		if source != "" {
			sources++
		}
	}
	switch {
	case sources != 1:
		return usagef("exactly one of --image, --docker-uri, --rootfs is required")
	case o.output == "":
		return usagef("--output is required")
	case o.build.Arch != arch.X86_64 && o.build.Arch != arch.AArch64:
		return usagef("invalid --arch %q: expected x86_64 or aarch64", o.build.Arch)
	case len(o.packages) > 0 && (o.own.Kernel != "" || o.own.Config != ""):
		return usagef("--kernel-package cannot be combined with --kernel or --kernel-config")
	case o.compat != "" && o.compat != nitroCLI:
		return usagef("invalid --compat %q: expected nitro-cli", o.compat)
	}
	for _, p := range o.packages {
		file, sum, given := strings.Cut(p, digestMark)
		if b, err := hex.DecodeString(sum); file == "" || given && (err != nil || len(b) != sha256.Size) {
			return usagef(
				"invalid --kernel-package %q: expected FILE or FILE%sHEX with 64 hexadecimal digits",
				p, digestMark)
		}
	}
	for _, code := range o.allow {
		if code == contract.AllowUserns || code == contract.AllowIOUring {
			o.build.Overrides.Allow = append(o.build.Overrides.Allow, code)
			continue
		}
		if !slices.ContainsFunc(preflight.Codes, func(k preflight.Kind) bool {
			return string(k.Code) == code
		}) {
			return usagef("invalid --allow %q: expected userns, io_uring or a code that 'neb eif check' "+
				"prints", code)
		}
		o.build.Allow = append(o.build.Allow, preflight.Code(code))
	}
	v := &o.build.Overrides
	for _, text := range []struct {
		flag  string
		value *string
		to    **string
	}{
		{"workdir", &o.workdir, &v.WorkingDir},
		{"user", &o.user, &v.User},
		{"stop-signal", &o.stopSignal, &v.StopSignal},
	} {
		if o.given.Changed(text.flag) {
			*text.to = text.value
		}
	}
	v.LoopbackDown = !o.loopback
	if o.nsmMode != "" {
		mode, err := strconv.ParseUint(o.nsmMode, 8, 32)
		if err != nil || mode == 0 || mode > 0o777 {
			return usagef("invalid --nsm-mode %q: expected octal permissions from 0001 to 0777", o.nsmMode)
		}
		v.NSMMode = uint32(mode)
	}
	return nil
}

// openImage opens the image of --image or --docker-uri.
func (o *eifBuild) openImage(ctx context.Context, s streams) (*image.Image, error) {
	options := image.Options{Arch: o.build.Arch}
	if o.image != "" {
		return image.Open(ctx, o.image, options)
	}
	img, missed, err := image.OpenBuilt(ctx, o.dockerURI, options)
	if err == nil && missed != nil {
		complain(s, "%v; using the image from its registry", missed)
	}
	return img, err
}

// checkFiles checks that the input files exist, and that the output replaces none of them and is not packed
// itself.
func (o *eifBuild) checkFiles() error {
	target, err := atomicfile.Target(o.output)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	inputs := [][2]string{
		{"rootfs", o.build.RootFS}, {"blobs", o.blobs},
		{"kernel", o.own.Kernel}, {"kernel-config", o.own.Config}, {"init", o.own.Init}, {"nsm", o.own.NSM},
		{"metadata", o.metadata}, {"signing-certificate", o.key.certificate},
	}
	if !sign.IsARN(o.key.key) {
		inputs = append(inputs, [2]string{"private-key", o.key.key})
	}
	for _, m := range o.build.Modules {
		inputs = append(inputs, [2]string{"module", m})
	}
	for _, p := range o.packages {
		file, _, _ := strings.Cut(p, digestMark)
		inputs = append(inputs, [2]string{"kernel-package", file})
	}
	paths := []string{image.Place(o.image), o.own.Kernel + ".config"}
	for _, in := range inputs {
		flag, path := in[0], in[1]
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
		paths = append(paths, path)
		if flag == "blobs" {
			b := pack.BlobsIn(path, o.build.Arch)
			paths = append(paths, b.Kernel, b.Config, b.Cmdline, b.Init, b.NSM)
		}
		if flag == "rootfs" && info.IsDir() {
			above, err := filepath.Abs(target)
			if err != nil {
				return err
			}
			for above != filepath.Dir(above) {
				above = filepath.Dir(above)
				if dir, err := os.Stat(above); err == nil && os.SameFile(dir, info) {
					return usagef("--output %s is inside --rootfs %s, and would be packed with it",
						o.output, path)
				}
			}
		}
	}
	return notInput("--output", o.output, paths...)
}

// digestMark stands between the name of a kernel's package and its hash.
const digestMark = "@sha256:"

// unpackKernel unpacks the kernel of --kernel-package into work, which the caller removes, and sets kernel,
// configuration, driver and modules.
func (o *eifBuild) unpackKernel(ctx context.Context) (work string, err error) {
	var files []string
	for _, p := range o.packages {
		file, want, given := strings.Cut(p, digestMark)
		if given {
			if sum, _, err := stream.SHA256(ctx, file); err != nil {
				return "", err
			} else if !strings.EqualFold(sum, want) {
				return "", fmt.Errorf("%s: expected SHA-256 %s, found %s", file, want, sum)
			}
		}
		files = append(files, file)
	}
	if work, err = os.MkdirTemp("", "neb-kernel-"); err != nil {
		return "", err
	}
	var uses []string
	if o.build.Overrides.Network {
		uses = append(uses, debian.Network)
	}
	if o.rootFormat == string(pack.Erofs) {
		uses = append(uses, debian.Erofs)
	}
	k, err := debian.UnpackKernel(ctx, work, o.build.Arch, uses, files...)
	if err != nil {
		return work, err
	}
	if o.build.Arch == arch.AArch64 {
		if err := setTextOffset(k.Image); err != nil {
			return work, err
		}
	}
	o.own.Kernel, o.own.Config = k.Image, k.Config
	if !o.given.Changed("nsm") {
		o.own.NSM = k.NSM
	}
	o.build.Modules = append(k.Modules, o.build.Modules...)
	return work, nil
}

// setTextOffset prepares an aarch64 Image for Nitro's loader, as neb build does. One that is wrapped for EFI
// is prepared when it is unwrapped.
func setTextOffset(image string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && kernel.CheckFile(f, info.Size(), arch.AArch64) == nil {
		err = kernel.SetTextOffset(f)
	}
	return errors.Join(err, f.Close())
}

// findBlobs returns the blobs that the flags name. The others come from --blobs, or are built.
func (o *eifBuild) findBlobs(ctx context.Context, builder *blobBuilder) (blobs pack.Blobs, err error) {
	if o.blobs != "" {
		blobs = pack.BlobsIn(o.blobs, o.build.Arch)
	} else if names := o.unnamed(); len(names) > 0 {
		if blobs, err = builder.blobs(ctx, o.build.Arch, names); err != nil {
			return blobs, err
		}
	}
	if o.own.Kernel != "" {
		// Configuration and driver belong to the kernel.
		blobs.Kernel, blobs.Config, blobs.NSM = o.own.Kernel, "", ""
		if _, err := os.Stat(o.own.Kernel + ".config"); err == nil {
			blobs.Config = o.own.Kernel + ".config"
		}
	}
	if o.own.Config != "" {
		blobs.Config = o.own.Config
	}
	if o.own.Init != "" {
		blobs.Init = o.own.Init
	}
	if o.given.Changed("nsm") || len(o.packages) > 0 {
		blobs.NSM = o.own.NSM
	}
	return blobs, nil
}

// unnamed returns the components that no flag replaces, so that nobody waits for a kernel that is not used.
func (o *eifBuild) unnamed() []string {
	var names []string
	if o.own.Kernel == "" {
		names = append(names, "kernel")
	}
	if o.own.Init == "" {
		names = append(names, "init")
	}
	return names
}
