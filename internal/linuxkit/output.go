package linuxkit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Format is a way to write a tree to a file.
type Format struct {
	Name   string
	Suffix string // of the file's name
	write  func(io.Writer, *image.Tree, image.Ramdisk) error
}

// Tar is the only format that can be written to standard output.
const Tar = "tar"

var formats = []Format{
	{"kernel+initrd", "-initrd.img", writeGzip},
	{"kernel+initrd-nogz", "-initrd.img", writePlain},
	{Tar, ".tar", writeTar},
}

// FormatNames returns the names of all formats, separated by commas.
func FormatNames() string {
	var names []string
	for _, f := range formats {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// FindFormat finds a format by its name.
func FindFormat(name string) (Format, error) {
	for _, f := range formats {
		if f.Name == name {
			return f, nil
		}
	}
	return Format{}, fmt.Errorf("invalid format %q: expected one of %s; %s", name, FormatNames(), elsewhere)
}

// Output says where and how [Write] writes a tree.
type Output struct {
	File string // its name
	// Stdout, if it is not nil, receives the archive in place of the file.
	Stdout  io.Writer
	Format  Format
	Ramdisk image.Ramdisk
	// Approve, if it is not nil, is called when the file is complete and has no name yet. Its error discards
	// it.
	Approve func() error
}

// Write writes the tree. The file appears under its name when it is complete. It is not forced to the disk:
// that takes longer than all the rest, and protects only against a power failure before the enclave image is
// made of it.
//
// When ctx is done, Write returns its cause soon, and discards the file. It does not take back what Stdout
// has received, and does not return while Stdout blocks.
func Write(ctx context.Context, t *image.Tree, o Output) error {
	if o.Stdout != nil {
		b := bufio.NewWriterSize(stream.Writer(ctx, o.Stdout), 256<<10)
		if err := o.Format.write(b, t, o.Ramdisk); err != nil {
			return err
		}
		return b.Flush()
	}
	f, err := atomicfile.New(o.File)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := o.Format.write(stream.Writer(ctx, f.File), t, o.Ramdisk); err != nil {
		return fmt.Errorf("format %s: %w", o.Format.Name, err)
	}
	if err := f.Chmod(0o644); err != nil { // nitro-cli may run as another user
		return err
	}
	if o.Approve != nil {
		if err := o.Approve(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.Commit()
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
	return t.WriteTar(w, o.Epoch)
}
