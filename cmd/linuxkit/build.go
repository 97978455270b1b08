package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/spf13/cobra"
)

// arches are the names that --arch knows.
var arches = map[string]string{
	"amd64": "x86_64", "x86_64": "x86_64",
	"arm64": "aarch64", "aarch64": "aarch64",
}

// goArch are the names that images have for them.
var goArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

type buildFlags struct {
	name, dir, file, prefix, arch string
	formats                       []string
	docker, pull, noSBOM, strict  bool
	limitFlags
}

func newBuild(g *global) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [flags] FILE.yml...",
		Short: "Build a ramdisk from YAML files",
		Long: "Build a ramdisk from YAML files, several of which are merged; - is standard input.\n\n" +
			"Images are named as in a registry, or begin with docker-daemon:, docker-archive:, oci-archive:, oci: or docker://.\n" +
			"Plain names are looked for in the Docker engine (with --docker), in the cache, and in their registry.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return build(cmd.Context(), g, &f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "what the names of output files begin with (default: the last FILE's)")
	flags.StringVar(&f.dir, "dir", "", "directory of the output files")
	flags.StringVar(&f.file, "o", "", "file of a single output that streams, - for standard output")
	flags.StringSliceVarP(&f.formats, "format", "f", nil, "formats to write: "+linuxkit.FormatNames()+" (default kernel+initrd; tar with --o)")
	flags.StringVar(&f.prefix, "prefix", "", "directory that images are put in, with a slash at the end (in the place of the YAML's)")
	flags.StringVar(&f.arch, "arch", runtime.GOARCH, "architecture of the images: amd64 or arm64")
	flags.BoolVar(&f.docker, "docker", false, "look for images in the Docker engine first")
	flags.BoolVar(&f.pull, "pull", false, "fetch images from their registry even if they are in the engine or the cache")
	flags.BoolVar(&f.noSBOM, "no-sbom", false, "has no effect: none is ever written")
	flags.BoolVar(&f.strict, "strict", os.Getenv("LINUXKIT_STRICT") == "1", "fail where the ramdisk cannot hold all of an image (LINUXKIT_STRICT=1)")
	f.limitFlags.add(cmd, "Entries", "Bytes", "Window")
	refuse(cmd, true, "size", "input-tar", "sbom-output")
	refuse(cmd, false, "decompress-kernel", "sbom-current-time", "dry-run")
	return cmd
}

func build(ctx context.Context, g *global, f *buildFlags, args []string) error {
	out, err := f.output(args)
	if err != nil {
		return err
	}
	if out.File == "-" {
		out.Stdout = g.out
	}
	arch := arches[f.arch]
	if arch == "" {
		return fmt.Errorf("--arch %s: expected amd64 or arm64", f.arch)
	}
	limits, err := f.limits()
	if err != nil {
		return err
	}
	if out.Ramdisk.Epoch, err = sourceDateEpoch(); err != nil {
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

	dir := filepath.Dir(out.Base)
	if out.Stdout != nil {
		dir = ""
	}
	find := finder{global: g, docker: f.docker, pull: f.pull, options: image.Options{Arch: arch, TempDir: dir, Limits: limits}}
	tree, err := linuxkit.Build(ctx, config, linuxkit.Options{Open: find.open, Dir: dir, Limits: limits})
	if err != nil {
		return err
	}
	defer tree.Close()
	lost := losses{global: g, strict: f.strict}
	out.Ramdisk.Lost = lost.note
	out.Ramdisk.Complete = len(config.Init) > 0
	out.Approve = lost.end
	return linuxkit.Write(ctx, tree, *out)
}

// output is what the flags say about files.
func (f *buildFlags) output(args []string) (*linuxkit.Output, error) {
	names := f.formats
	if len(names) == 0 {
		names = []string{"kernel+initrd"}
		if f.file != "" {
			names = []string{"tar"}
		}
	}
	formats, err := linuxkit.FindFormats(names)
	if err != nil {
		return nil, err
	}
	out := &linuxkit.Output{Formats: formats}
	if f.file != "" {
		switch {
		case f.name != "":
			return nil, errors.New("--o and --name: the file has its name from one of them")
		case f.dir != "":
			return nil, errors.New("--o and --dir: the file has its directory from one of them")
		case !formats[0].Stream:
			return nil, fmt.Errorf("--o: format %s is more than one file; give --name and --dir", formats[0].Name)
		}
		out.File, out.Base = f.file, f.file
		return out, nil
	}
	name := f.name
	if name == "" {
		last := filepath.Base(args[len(args)-1])
		if name = strings.TrimSuffix(last, filepath.Ext(last)); last == "-" {
			name = "moby" // LinuxKit's name for what has none
		}
	}
	out.Base = filepath.Join(f.dir, name)
	return out, nil
}

func sourceDateEpoch() (*int64, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH=%s: expected seconds since 1970", text)
	}
	return &n, nil
}

func readConfig(g *global, name string) (*linuxkit.Config, error) {
	const limit = 16<<20 + 1 // Parse refuses it, by name
	var r io.Reader = g.in
	switch {
	case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
		return nil, fmt.Errorf("%s: what goes into an enclave is not fetched unseen: download it and give the file", name)
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
	data, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return linuxkit.Parse(name, data)
}

// finder opens images by the names in the YAML.
type finder struct {
	*global
	docker, pull bool
	options      image.Options
}

func (f *finder) open(ctx context.Context, ref string) (*image.Image, error) {
	if image.HasTransport(ref) {
		return image.Open(ctx, ref, f.options)
	}
	var missed error
	if f.docker && !f.pull {
		img, err := image.Open(ctx, "docker-daemon:"+ref, f.options)
		if err == nil {
			f.say("%s: from the Docker engine", ref)
			return img, nil
		}
		if !errors.Is(err, image.ErrNoSuchImage) && !errors.Is(err, image.ErrNoEngine) {
			return nil, err
		}
		missed = err
	}
	cache := linuxkit.Cache{Dir: f.cache, Limits: f.options.Limits}
	if !f.pull {
		img, err := cache.Open(ctx, ref, f.options)
		if err == nil {
			f.instead(missed, "the cache "+f.cache)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
	}
	if err := cache.Pull(ctx, ref, goArch[f.options.Arch]); err != nil {
		return nil, errors.Join(missed, err)
	}
	f.instead(missed, "its registry")
	f.say("%s: pulled to %s", ref, f.cache)
	return cache.Open(ctx, ref, f.options)
}

// instead says that an image is not the one that the engine may have: what is measured must not change without a word.
func (f *finder) instead(missed error, source string) {
	if missed != nil {
		fmt.Fprintf(f.err, "linuxkit: %v: taken from %s instead\n", missed, source)
	}
}

// losses says what the ramdisk cannot hold.
type losses struct {
	*global
	strict bool
	n      int
}

// mostLosses are said one by one; an image with a thousand is one with a label on every file.
const mostLosses = 100

func (l *losses) note(path, what string) error {
	l.n++
	if l.n <= mostLosses {
		fmt.Fprintf(l.err, "linuxkit: %s: %s\n", path, what)
	}
	if l.strict && l.n == mostLosses {
		return l.end()
	}
	return nil
}

func (l *losses) end() error {
	if l.n > mostLosses {
		fmt.Fprintf(l.err, "linuxkit: and %d more\n", l.n-mostLosses)
	}
	if l.strict && l.n > 0 {
		return fmt.Errorf("--strict: the ramdisk cannot hold all of the image (%d losses, see above)", l.n)
	}
	return nil
}
