package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/epoch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/spf13/cobra"
)

type buildFlags struct {
	name, dir, file, prefix, arch string
	formats                       []string
	docker, pull, noSBOM, strict  bool
}

func newBuild(g *global) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [flags] FILE.yml...",
		Short: "Build a ramdisk from YAML files",
		Long: "Build a ramdisk from YAML files. Several files are merged; - is standard input.\n\n" +
			"An image name is a registry's, or begins with docker-daemon:, docker-archive:, oci-archive:, oci: or\n" +
			"docker://. With --docker, a name without such a prefix is looked up in the Docker engine first, then in\n" +
			"its registry.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return build(cmd.Context(), g, &f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "",
		"beginning of the names of the output files (default: name of the last FILE)")
	flags.StringVar(&f.dir, "dir", "", "directory of the output files")
	flags.StringVar(&f.file, "o", "", "output file of a single format, - for standard output (tar only)")
	flags.StringSliceVarP(&f.formats, "format", "f", nil,
		"formats to write: "+linuxkit.FormatNames()+" (default kernel+initrd; tar with --o)")
	flags.StringVar(&f.prefix, "prefix", "",
		"directory for the trees of the images, with a slash at the end (overrides the YAML)")
	flags.StringVar(&f.arch, "arch", runtime.GOARCH, "architecture of the images: amd64 or arm64")
	flags.BoolVar(&f.docker, "docker", false, "look for images in the Docker engine first")
	flags.BoolVar(&f.pull, "pull", false,
		"fetch images from their registry even if the Docker engine has them")
	flags.BoolVar(&f.noSBOM, "no-sbom", false,
		"accepted for compatibility: linuxkit writes no bill of materials")
	flags.BoolVar(&f.strict, "strict", os.Getenv("LINUXKIT_STRICT") == "1",
		"fail if the ramdisk cannot hold everything in an image (LINUXKIT_STRICT=1)")
	return cmd
}

func build(ctx context.Context, g *global, f *buildFlags, args []string) error {
	out, err := f.output(args)
	if err != nil {
		return err
	}
	dir := filepath.Dir(out.Base)
	if out.File == "-" {
		out.Stdout, dir = g.out, ""
	}
	machine, ok := arch.Parse(f.arch)
	if !ok {
		return fmt.Errorf("invalid --arch %s: expected amd64 or arm64", f.arch)
	}
	limits, err := limitsFromEnvironment()
	if err != nil {
		return err
	}
	if out.Ramdisk.Epoch, err = epoch.FromEnvironment(); err != nil {
		return err
	}
	config := &linuxkit.Config{}
	for _, arg := range args {
		c, err := readConfig(g, arg)
		if err != nil {
			return err
		}
		config.Append(c)
	}
	if f.prefix != "" {
		config.Prefix = f.prefix
	}
	options := image.Options{Arch: machine.Name, TempDir: dir, Limits: limits}
	find := finder{global: g, docker: f.docker && !f.pull, options: options}
	tree, err := linuxkit.Build(ctx, config, linuxkit.Options{Open: find.open, Dir: dir, Limits: limits})
	if err != nil {
		return err
	}
	defer tree.Close()
	var lost linuxkit.Losses
	out.Ramdisk.Lost = lost.Note
	if len(config.Init) > 0 {
		out.Ramdisk.Marker = linuxkit.Marker()
	}
	out.Approve = func() error {
		for _, line := range lost.Lines() {
			fmt.Fprintf(g.err, "linuxkit: %s\n", line)
		}
		if f.strict && len(lost.Lines()) > 0 {
			return errors.New("--strict: the ramdisk cannot hold everything in the image, see above")
		}
		return nil
	}
	return linuxkit.Write(ctx, tree, *out)
}

// output returns the files that the flags ask for.
func (f *buildFlags) output(args []string) (*linuxkit.Output, error) {
	names := f.formats
	if len(names) == 0 {
		names = []string{"kernel+initrd"}
		if f.file != "" {
			names = []string{linuxkit.Tar}
		}
	}
	formats, err := linuxkit.FindFormats(names)
	if err != nil {
		return nil, err
	}
	out := &linuxkit.Output{Formats: formats, File: f.file, Base: f.file}
	if f.file != "" {
		switch {
		case f.name != "":
			return nil, errors.New("--o cannot be combined with --name")
		case f.dir != "":
			return nil, errors.New("--o cannot be combined with --dir")
		case formats[0].Name != linuxkit.Tar:
			return nil, fmt.Errorf("--o cannot be combined with format %s: use --name and --dir",
				formats[0].Name)
		}
		return out, nil
	}
	name := f.name
	if name == "" {
		last := filepath.Base(args[len(args)-1])
		if name = strings.TrimSuffix(last, filepath.Ext(last)); last == "-" {
			name = "moby" // LinuxKit's default
		}
	}
	out.Base = filepath.Join(f.dir, name)
	return out, nil
}

func readConfig(g *global, name string) (*linuxkit.Config, error) {
	r := g.in
	switch {
	case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
		return nil, fmt.Errorf("%s: URLs are not supported: download the file, check it and pass its name", name)
	case name == "-":
		name = "standard input"
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, linuxkit.MaxConfig+1)) // Parse rejects the last byte
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return linuxkit.Parse(name, data)
}

// finder opens images by their names in the YAML.
type finder struct {
	*global
	docker  bool // look in the Docker engine first
	options image.Options
}

func (f *finder) open(ctx context.Context, ref string) (*image.Image, error) {
	if image.HasTransport(ref) {
		return image.Open(ctx, ref, f.options)
	}
	var missed error
	if f.docker {
		var img *image.Image
		if img, missed = image.Open(ctx, "docker-daemon:"+ref, f.options); missed == nil {
			f.say("%s: from the Docker engine", ref)
			return img, nil
		}
		if !errors.Is(missed, image.ErrNoSuchImage) && !errors.Is(missed, image.ErrNoEngine) {
			return nil, missed
		}
	}
	if mirror := os.Getenv("LINUXKIT_MIRROR"); mirror != "" {
		return nil, fmt.Errorf("image %s: LINUXKIT_MIRROR=%s is not supported: unset it, or name the image in the mirror",
			ref, mirror)
	}
	img, err := image.Open(ctx, ref, f.options)
	if err != nil {
		return nil, errors.Join(missed, err)
	}
	// Not even --quiet hides it: the registry's image may differ from the one that was just built.
	if missed != nil {
		fmt.Fprintf(f.err, "linuxkit: %v; using the image from its registry\n", missed)
	} else {
		f.say("%s: from its registry", ref)
	}
	return img, nil
}
