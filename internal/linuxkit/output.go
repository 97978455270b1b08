package linuxkit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Format is a way to write a tree to one file.
type Format struct {
	Name   string
	suffix string // of the file's name
	write  func(io.Writer, *image.Tree, image.Ramdisk) error
}

// Tar is the only format that can be written to standard output.
const Tar = "tar"

// Formats lists all formats.
var Formats = []Format{
	{"kernel+initrd", "-initrd.img", writeGzip},
	{"kernel+initrd-nogz", "-initrd.img", writePlain},
	{Tar, ".tar", writeTar},
}

// FormatNames returns the names of [Formats], separated by commas.
func FormatNames() string {
	var names []string
	for _, f := range Formats {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// FindFormats finds formats by their names. [Tar] cannot be combined with another.
func FindFormats(names []string) ([]Format, error) {
	var found []Format
	for _, name := range names {
		i := slices.IndexFunc(Formats, func(f Format) bool { return f.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("invalid format %q: expected one of %s; %s",
				name, FormatNames(), elsewhere)
		}
		if name == Tar && len(names) > 1 {
			return nil, fmt.Errorf("format %s cannot be combined with another", name)
		}
		found = append(found, Formats[i])
	}
	return found, nil
}

// Output says where and how [Write] writes a tree.
type Output struct {
	// Base is the beginning of the files' names, with their directory.
	Base string
	// File is the name of the file, in place of Base and its suffix, where there is only one format.
	File string
	// Stdout, if it is not nil, receives the archive in place of a file. Only the format [Tar] can be written
	// to it.
	Stdout  io.Writer
	Formats []Format
	Ramdisk image.Ramdisk
	// Approve, if it is not nil, is called when the files are complete and have no names yet. Its error
	// discards them.
	Approve func() error
}

// Write writes the tree in all formats. The files appear under their names when all of them are complete.
// They are not forced to the disk: that takes longer than all the rest, and protects only against a power
// failure before the enclave image is made of them.
//
// When ctx is done, Write returns its cause soon, and discards the files. It does not take back what Stdout
// has received, and does not return while Stdout blocks.
func Write(ctx context.Context, t *image.Tree, o Output) error {
	if o.Stdout != nil {
		b := bufio.NewWriterSize(stream.Writer(ctx, o.Stdout), 256<<10)
		if err := o.Formats[0].write(b, t, o.Ramdisk); err != nil {
			return err
		}
		return b.Flush()
	}
	var files []*atomicfile.File
	defer func() {
		for _, f := range files {
			f.Discard()
		}
	}()
	for _, format := range o.Formats {
		name := o.File
		if name == "" {
			name = o.Base + format.suffix
		}
		f, err := atomicfile.New(name)
		if err == nil {
			files = append(files, f)
			err = format.write(stream.Writer(ctx, f.File), t, o.Ramdisk)
		}
		if err == nil {
			err = f.Chmod(0o644) // nitro-cli may run as another user
		}
		if err != nil {
			return fmt.Errorf("format %s: %w", format.Name, err)
		}
	}
	if o.Approve != nil {
		if err := o.Approve(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, f := range files {
		if err := f.Commit(); err != nil {
			return err
		}
	}
	return nil
}

func writePlain(w io.Writer, t *image.Tree, o image.Ramdisk) error { return t.WriteRamdisk(w, o) }

func writeGzip(w io.Writer, t *image.Tree, o image.Ramdisk) error {
	z := gzip.NewWriter(w)
	if err := t.WriteRamdisk(z, o); err != nil {
		return err
	}
	return z.Close()
}

func writeTar(w io.Writer, t *image.Tree, o image.Ramdisk) error {
	latest := int64(math.MaxInt64)
	if o.Epoch != nil {
		latest = *o.Epoch
	}
	return t.WriteTar(w, latest)
}
