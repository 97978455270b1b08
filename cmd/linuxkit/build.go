package main

import (
	"cmp"
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
	name, dir, file, prefix, arch, format string
	docker, pull, noSBOM, strict          bool
}

func newBuild(s streams) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [flags] FILE.yml...",
		Short: "Build a ramdisk from YAML files",
		Long: "Build a ramdisk from YAML files. Several files are merged; - is standard input.\n\n" +
			"An image name is a registry's, or begins with docker-daemon:, docker-archive:, oci-archive:, " +
			"oci: or\n" +
			"docker://. With --docker, a name without such a prefix is looked up in the Docker engine " +
			"first, then in\n" +
			"its registry.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return build(cmd.Context(), s, &f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "",
		"beginning of the names of the output files (default: name of the last FILE)")
	flags.StringVar(&f.dir, "dir", "", "directory of the output files")
	flags.StringVar(&f.file, "o", "", "output file of the format tar, - for standard output")
	flags.StringVarP(&f.format, "format", "f", "",
		"format to write: "+linuxkit.FormatNames()+" (default kernel+initrd; tar with --o)")
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

func build(ctx context.Context, s streams, f *buildFlags, args []string) error {
	out, err := f.output(args)
	if err != nil {
		return err
	}
	dir := filepath.Dir(out.File)
	if out.File == "-" {
		out.Stdout, dir = s.out, ""
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
		c, err := readConfig(s, arg)
		if err != nil {
			return err
		}
		config.Append(c)
	}
	if f.prefix != "" {
		config.Prefix = f.prefix
	}
	options := image.Options{Arch: machine.Name, TempDir: dir, Limits: limits}
	open := func(ctx context.Context, ref string) (*image.Image, error) {
		return f.open(ctx, s, ref, options)
	}
	tree, err := linuxkit.Build(ctx, config, linuxkit.Options{Open: open, Dir: dir, Limits: limits})
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
			fmt.Fprintf(s.err, "linuxkit: %s\n", line)
		}
		if f.strict && len(lost.Lines()) > 0 {
			return errors.New("--strict: the ramdisk cannot hold everything in the image, see above")
		}
		return nil
	}
	return linuxkit.Write(ctx, tree, *out)
}

// output returns what the flags ask for.
func (f *buildFlags) output(args []string) (*linuxkit.Output, error) {
	if f.file != "" && (f.name != "" || f.dir != "") {
		return nil, errors.New("--o cannot be combined with --name or --dir")
	}
	fallback := "kernel+initrd"
	if f.file != "" {
		fallback = linuxkit.Tar
	}
	format, err := linuxkit.FindFormat(cmp.Or(f.format, fallback))
	if err != nil {
		return nil, err
	}
	if f.file != "" && format.Name != linuxkit.Tar {
		return nil, fmt.Errorf("--o cannot be combined with format %s: use --name and --dir", format.Name)
	}
	name := f.name
	if name == "" {
		last := filepath.Base(args[len(args)-1])
		if name = strings.TrimSuffix(last, filepath.Ext(last)); last == "-" {
			name = "moby" // LinuxKit's default
		}
	}
	file := cmp.Or(f.file, filepath.Join(f.dir, name)+format.Suffix)
	return &linuxkit.Output{Format: format, File: file}, nil
}

func readConfig(s streams, name string) (*linuxkit.Config, error) {
	r := s.in
	switch {
	case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
		return nil, fmt.Errorf("%s: URLs are not supported: download the file, check it and pass its name",
			name)
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

// open opens an image by its name in the YAML.
func (f *buildFlags) open(ctx context.Context, s streams, ref string, o image.Options) (*image.Image, error) {
	if mirror := os.Getenv("LINUXKIT_MIRROR"); mirror != "" && !image.HasTransport(ref) {
		return nil, fmt.Errorf("image %s: LINUXKIT_MIRROR=%s is not supported: unset it, or name the image "+
			"in the mirror",
			ref, mirror)
	}
	if !f.docker || f.pull {
		return image.Open(ctx, ref, o)
	}
	img, missed, err := image.OpenBuilt(ctx, ref, o)
	if err == nil && missed != nil {
		// Not even --quiet hides it: the registry's image may differ from the one that was just built.
		fmt.Fprintf(s.err, "linuxkit: %v; using the image from its registry\n", missed)
	}
	return img, err
}
