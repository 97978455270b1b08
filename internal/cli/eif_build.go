package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/epoch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// eifBuild are the options of `neb eif build`.
type eifBuild struct {
	image, rootfs   string
	dockerURI       string
	arch            string
	blobs           string
	kernel, config  string
	cmdline         string
	init, nsm       string
	name, version   string
	metadata        string
	entrypoint, cmd []string
	env             []string
	workdir, user   string
	stopSignal      string
	hostname        string
	loopback        bool
	nsmOwner        string
	nsmMode         string
	exitReport      uint32
	modules         []string
	modulesOpen     bool
	key             keyFlags
	output          string
	rootFormat      string
	compat          string
	build           buildFlags     // for missing blobs
	given           *pflag.FlagSet // says which of them were given
}

func newEIFBuildCommand(s streams) *cobra.Command {
	var o eifBuild
	cmd := &cobra.Command{
		Use:   "build (--image REFERENCE | --rootfs DIR|TAR) --output FILE",
		Short: "Make an Enclave Image File from a container image",
		Long: `Make an Enclave Image File from a container image, or from a directory or tar archive, and the blobs of 'neb build'.

An image is given as a registry's reference (alpine:3), or as docker-daemon:NAME, docker-archive:FILE, oci-archive:FILE
or oci:DIR. No Docker engine is needed but for docker-daemon:.

The same image, blobs and options make the same bytes on any machine. The measurements go to standard output, as
nitro-cli build-enclave prints them.`,
		Example: `  neb eif build --image alpine:3 --cmd /bin/date --output date.eif
  neb eif build --image docker-daemon:hello --output hello.eif --signing-certificate cert.pem --private-key key.pem
  neb eif build --rootfs ./tree --entrypoint /server --arch aarch64 --output server.eif`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.given = cmd.Flags()
			return o.run(cmd, s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "the container image")
	f.StringVar(&o.dockerURI, "docker-uri", "", "the container image, looked for in the Docker engine before its registry, as nitro-cli does")
	f.StringVar(&o.rootfs, "rootfs", "", "a directory or tar archive with the application's root, instead of an image")
	f.StringVar(&o.arch, "arch", component.Host(), "architecture of the enclave: x86_64 or aarch64")
	f.StringVar(&o.blobs, "blobs", "", "directory with the blobs (default: made by 'neb build', or from its cache)")
	f.StringVar(&o.kernel, "kernel", "", "bzImage or Image, instead of the one of --blobs")
	f.StringVar(&o.config, "kernel-config", "", "the kernel's configuration, instead of the one of --blobs")
	f.StringVar(&o.cmdline, "cmdline", "", "the kernel's command line, instead of the one of --blobs or neb's own")
	f.StringVar(&o.init, "init", "", "PID 1, instead of the one of --blobs")
	f.StringVar(&o.nsm, "nsm", "", "nsm.ko, instead of the one of --blobs; \"\" for none")
	f.StringVar(&o.name, "name", "", "name of the image in the metadata (default: its label org.opencontainers.image.title)")
	f.StringVar(&o.version, "version", "", "version of the image in the metadata (default: the digest of its configuration)")
	f.StringVar(&o.metadata, "metadata", "", "file with a JSON object to put into the metadata, of at most 4096 bytes")
	f.StringArrayVar(&o.entrypoint, "entrypoint", nil, "one argument of the command instead of the image's ENTRYPOINT; repeatable; \"\" for none")
	f.StringArrayVar(&o.cmd, "cmd", nil, "one argument of the command instead of the image's CMD; repeatable")
	f.StringArrayVar(&o.env, "env", nil, "set an environment variable, K=V; repeatable")
	f.StringVar(&o.workdir, "workdir", "", "working directory instead of the image's")
	f.StringVar(&o.user, "user", "", "user, or user:group, instead of the image's")
	f.StringVar(&o.stopSignal, "stop-signal", "", "signal, instead of the image's, for what outlives the application")
	f.StringVar(&o.hostname, "hostname", "", "host name of the enclave (default: enclave)")
	f.BoolVar(&o.loopback, "loopback", true, "set up lo with 127.0.0.1 and ::1; =false leaves that to the application")
	f.StringVar(&o.nsmOwner, "nsm-owner", "", "owner of /dev/nsm, user or user:group (default: the application's user)")
	f.StringVar(&o.nsmMode, "nsm-mode", "", "permissions of /dev/nsm, octal (default: 0600)")
	f.Uint32Var(&o.exitReport, "exit-report", 0, "vsock port of the parent that is told how the application ended (default: none)")
	f.StringArrayVar(&o.modules, "module", nil, "a kernel module to load after nsm.ko; repeatable, in this order")
	f.BoolVar(&o.modulesOpen, "modules-open", false, "let the enclave load modules later too")
	f.StringVar(&o.rootFormat, "rootfs-format", string(pack.CPIO), "form of the application's tree: cpio, or erofs (compressed; smaller, needs less memory)")
	f.StringVar(&o.compat, "compat", "", "nitro-cli: make what nitro-cli makes with the same blobs, with the same registers")
	choices(cmd, "arch", eif.X86_64, eif.AArch64)
	choices(cmd, "rootfs-format", string(pack.CPIO), string(pack.Erofs))
	choices(cmd, "compat", "nitro-cli")
	f.StringVarP(&o.output, "output", "o", "", "the file to make")
	f.BoolVar(&o.build.offline, "offline", false, "make missing blobs from what is in the cache, fetch nothing")
	f.IntVarP(&o.build.jobs, "jobs", "j", 0, "processes at once, for missing blobs (default: one for each processor)")
	f.StringVar(&o.build.source, "source", "", "neb's source tree, for a missing init")
	f.Bool("json", true, "no effect: the measurements are always printed as JSON")
	f.MarkHidden("json")
	o.key.add(cmd)
	allowEmpty(cmd, "nsm", "workdir", "user", "stop-signal") // empty clears the image's value
	aliases(cmd, map[string]string{"output-file": "output", "image_name": "name", "image_version": "version"})
	return cmd
}

// toolVersion stands in the metadata of what `neb eif build` makes. It counts changes of what the command writes, not
// releases: the same input then gives the same bytes with any build of neb that writes them the same way.
const toolVersion = "1"

func (o *eifBuild) run(cmd *cobra.Command, s streams) error {
	ctx := cmd.Context()
	sources := 0
	for _, source := range []string{o.image, o.dockerURI, o.rootfs} {
		if source != "" {
			sources++
		}
	}
	if sources != 1 {
		return usagef("one of --image and --rootfs (or --docker-uri) says what goes into the enclave")
	}
	if o.output == "" {
		return usagef("--output says which file to make")
	}
	if o.arch != eif.X86_64 && o.arch != eif.AArch64 {
		return usagef("--arch %q: an enclave has x86_64 or aarch64", o.arch)
	}
	overrides, err := o.overrides()
	if err != nil {
		return err
	}
	build := &pack.Build{
		Arch:        o.arch,
		Cmdline:     o.cmdline,
		RootFS:      o.rootfs,
		RootFormat:  pack.RootFormat(o.rootFormat),
		Overrides:   overrides,
		Modules:     o.modules,
		ModulesOpen: o.modulesOpen,
		Name:        o.name,
		Version:     o.version,
		Tool:        toolVersion,
		NitroCLI:    o.compat == "nitro-cli",
		Warn:        func(line string) { complain(s, "%s", line) },
	}
	if o.compat != "" && !build.NitroCLI {
		return usagef("--compat %q: nitro-cli is what there is", o.compat)
	}
	if build.Epoch, err = epoch.FromEnvironment(); err != nil {
		return err
	}
	if build.Signer, err = o.key.signer(cmd); err != nil {
		return err
	}
	if o.metadata != "" {
		if build.Metadata, err = readCustomMetadata(o.metadata); err != nil {
			return err
		}
	}
	// All that can be wrong is looked at before a blob is built.
	if err := o.checkFiles(); err != nil {
		return err
	}
	tools := newBlobBuilder(s, o.build)
	defer tools.close()
	build.ErofsTools = tools
	if o.rootfs == "" {
		if build.Image, err = o.openImage(ctx, s); err != nil {
			return err
		}
		defer build.Image.Close()
	}
	if err := build.Check(); err != nil {
		return err
	}
	if build.Blobs, err = o.findBlobs(ctx, tools); err != nil {
		return err
	}
	if build.Blobs.Cmdline == "" && build.Cmdline == "" {
		build.Cmdline = kernel.Cmdline(o.arch)
	}

	bar := newProgress(s.err)
	build.Progress = func(done, total int64) {
		bar.event(progress.Event{Stage: "pack", Done: done, Total: total, Unit: "bytes"})
	}
	var result *pack.Result
	err = atomicfile.Write(o.output, func(f *os.File) error {
		result, err = build.To(ctx, f)
		return err
	})
	bar.close()
	if err != nil {
		return fmt.Errorf("%s: %w", o.output, err)
	}
	complain(s, "%s: %d bytes; an enclave needs at least %d MiB of memory for it", o.output, result.Size, (4*result.Size+1<<20-1)>>20)
	return printMeasurements(s, result.Measurements)
}

// openImage opens the image that --image or --docker-uri names. nitro-cli takes what the Docker engine has, and pulls the rest:
// a registry may have another image by the name of one that was just built.
func (o *eifBuild) openImage(ctx context.Context, s streams) (*image.Image, error) {
	options := image.Options{Arch: o.arch}
	if o.image != "" {
		return image.Open(ctx, o.image, options)
	}
	if image.HasTransport(o.dockerURI) {
		return image.Open(ctx, o.dockerURI, options)
	}
	img, missed := image.Open(ctx, "docker-daemon:"+o.dockerURI, options)
	if missed == nil {
		complain(s, "%s: from the Docker engine", o.dockerURI)
		return img, nil
	}
	if !errors.Is(missed, image.ErrNoSuchImage) && !errors.Is(missed, image.ErrNoEngine) {
		return nil, missed
	}
	complain(s, "%v", missed)
	img, err := image.Open(ctx, o.dockerURI, options)
	if err == nil {
		complain(s, "%s: from its registry", o.dockerURI)
	}
	return img, err
}

func printMeasurements(s streams, m eif.Measurements) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct{ Measurements eif.Measurements }{m})
}

func (o *eifBuild) overrides() (pack.Overrides, error) {
	given := func(flag string, value *string) *string {
		if o.given.Changed(flag) {
			return value
		}
		return nil
	}
	v := pack.Overrides{
		Entrypoint: o.entrypoint, Cmd: o.cmd, Env: o.env,
		WorkingDir: given("workdir", &o.workdir), User: given("user", &o.user), StopSignal: given("stop-signal", &o.stopSignal),
		Hostname: o.hostname, LoopbackDown: !o.loopback, NSMOwner: o.nsmOwner, ExitReport: o.exitReport,
	}
	if len(o.entrypoint) == 1 && o.entrypoint[0] == "" {
		v.Entrypoint = []string{} // none, as with docker run
	}
	if o.nsmMode != "" {
		mode, err := strconv.ParseUint(o.nsmMode, 8, 32)
		if err != nil || mode == 0 || mode > 0o777 {
			return v, usagef("--nsm-mode %q: expected permissions in octal, from 0001 to 0777", o.nsmMode)
		}
		v.NSMMode = uint32(mode)
	}
	return v, nil
}

// checkFiles checks the files that the flags name: that those to read are there, and that the one to make is none of them, nor one that would be packed.
func (o *eifBuild) checkFiles() error {
	type input struct{ flag, path string }
	inputs := []input{
		{"rootfs", o.rootfs}, {"blobs", o.blobs}, {"kernel", o.kernel}, {"kernel-config", o.config}, {"init", o.init}, {"nsm", o.nsm},
		{"metadata", o.metadata}, {"signing-certificate", o.key.certificate}, {"private-key", o.key.key},
	}
	if o.kernel != "" && o.config == "" {
		if _, err := os.Stat(o.kernel + ".config"); err == nil {
			inputs = append(inputs, input{"kernel", o.kernel + ".config"})
		}
	}
	for _, m := range o.modules {
		inputs = append(inputs, input{"module", m})
	}
	target, err := atomicfile.Target(o.output)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if err := notInput("--output", o.output, image.Place(o.image)); err != nil {
		return err
	}
	for _, in := range inputs {
		if in.path == "" || in.flag == "private-key" && sign.IsKeyARN(in.path) {
			continue
		}
		info, err := os.Stat(in.path)
		if err != nil {
			return fmt.Errorf("--%s: %w", in.flag, err)
		}
		if err := notInput("--output", o.output, in.path); err != nil {
			return err
		}
		switch {
		case in.flag == "blobs":
			for _, name := range component.Names {
				for _, file := range component.Files(name, o.arch) {
					if err := notInput("--output", o.output, filepath.Join(in.path, file)); err != nil {
						return err
					}
				}
			}
		case in.flag == "rootfs" && info.IsDir():
			above, err := filepath.Abs(target)
			if err != nil {
				return err
			}
			for above != "/" {
				above = filepath.Dir(above)
				if dir, err := os.Stat(above); err == nil && os.SameFile(dir, info) {
					return usagef("--output %s: is inside of --rootfs %s, and would be packed with it", o.output, in.path)
				}
			}
		}
	}
	return nil
}

// findBlobs returns the blobs that the flags name. The others come from --blobs, or are built.
func (o *eifBuild) findBlobs(ctx context.Context, builder *blobBuilder) (blobs pack.Blobs, err error) {
	if o.blobs != "" {
		blobs = pack.BlobsIn(o.blobs, o.arch)
	} else if names := o.missing(); len(names) > 0 {
		if blobs, err = builder.blobs(ctx, o.arch, names); err != nil {
			return blobs, err
		}
	}
	if o.kernel != "" {
		// Configuration, command line and driver belong to the kernel.
		blobs.Kernel, blobs.Config, blobs.NSM = o.kernel, "", ""
		if _, err := os.Stat(o.kernel + ".config"); err == nil {
			blobs.Config = o.kernel + ".config"
		}
	}
	if o.config != "" {
		blobs.Config = o.config
	}
	if o.init != "" {
		blobs.Init = o.init
	}
	if o.given.Changed("nsm") {
		blobs.NSM = o.nsm
	}
	return blobs, nil
}

// missing are the parts of `neb build` that no flag replaces: nobody waits for a kernel that is then not used.
func (o *eifBuild) missing() []string {
	var names []string
	if o.kernel == "" {
		names = append(names, "kernel")
	}
	if o.init == "" {
		names = append(names, "init")
	}
	return names
}

func readCustomMetadata(path string) (json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, pack.MaxCustomMetadata+1))
	if err != nil {
		return nil, err
	}
	if len(text) > pack.MaxCustomMetadata {
		return nil, fmt.Errorf("%s has more than %d bytes, which is all that the metadata of an image have room for", path, pack.MaxCustomMetadata)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil && strings.TrimSpace(string(text)) != "null" {
		return nil, fmt.Errorf("%s: expected a JSON object: %w", path, err)
	}
	return text, nil
}
