package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/spf13/cobra"
)

func newCache(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look after the image cache",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cache := func() linuxkit.Cache { return linuxkit.Cache{Dir: g.cache} }
	var limits limitFlags
	ls := &cobra.Command{
		Use: "ls", Short: "List the images in the cache", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := cache().Images()
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(all)) {
				fmt.Fprintf(g.out, "%-80s %s\n", name, all[name].Digest)
			}
			return nil
		},
	}
	pull := &cobra.Command{
		Use: "pull NAME...", Short: "Fetch images from their registries, for all architectures", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := limits.limits()
			if err != nil {
				return err
			}
			for _, name := range args {
				c := cache()
				c.Limits = l
				if err := c.Pull(cmd.Context(), name, ""); err != nil {
					return err
				}
			}
			return nil
		},
	}
	imp := &cobra.Command{
		Use: "import FILE", Short: "Take over the images of an OCI layout in a tar file (- is standard input)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := g.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				r = f
			}
			c := cache()
			var err error
			if c.Limits, err = limits.limits(); err != nil {
				return err
			}
			names, unnamed, err := c.Import(cmd.Context(), r)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, digest := range unnamed {
				fmt.Fprintf(g.err, "linuxkit: %s: %s has no name and is left out\n", args[0], digest)
			}
			for _, name := range names {
				g.say("%s: imported", name)
			}
			return nil
		},
	}
	for _, c := range []*cobra.Command{pull, imp} {
		limits.add(c, "Bytes")
	}
	rm := &cobra.Command{
		Use: "rm NAME...", Short: "Remove images, and the blobs that no other image has", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return cache().Remove(args...) },
	}
	clean := &cobra.Command{
		Use: "clean", Short: "Remove the cache", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return cache().Clean() },
	}
	for _, c := range []*cobra.Command{rm, clean} {
		refuse(c, false, "published-only")
	}
	push := &cobra.Command{
		Use: "push", Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("cache push: this linuxkit packs enclaves and does not have it")
		},
	}
	cmd.AddCommand(ls, pull, imp, newExport(g), rm, clean, push)
	return cmd
}

func newExport(g *global) *cobra.Command {
	var platform, file, format, tag string
	cmd := &cobra.Command{
		Use: "export NAME", Short: "Write an image of the cache to a file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			system, machine, _ := strings.Cut(platform, "/")
			machine, _, _ = strings.Cut(machine, "/")
			arch := arches[machine]
			if system != "linux" || arch == "" {
				return fmt.Errorf("--platform %s: expected linux/amd64 or linux/arm64", platform)
			}
			o := image.Options{Arch: arch}
			c := linuxkit.Cache{Dir: g.cache}
			switch file {
			case "":
				return errors.New("--outfile is needed, - is standard output")
			case "-":
				return c.Export(cmd.Context(), struct{ io.Writer }{g.out}, args[0], format, tag, o)
			}
			return c.ExportFile(cmd.Context(), file, args[0], format, tag, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "which image, where the name stands for several")
	flags.StringVar(&file, "outfile", "", "file to write, - for standard output")
	flags.StringVar(&format, "format", "oci", "one of "+strings.Join(linuxkit.ExportFormats, ", "))
	flags.StringVar(&tag, "name", "", "name that the image gets in the file")
	return cmd
}
