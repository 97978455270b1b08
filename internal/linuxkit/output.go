package linuxkit

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
)

// Format is a way to write a tree.
type Format struct {
	Name   string
	Stream bool // it is one file, which may be standard output
	About  string
	write  func(w *writing) error
}

// Formats are all there are.
var Formats = []Format{
	{"kernel+initrd", false, "NAME-initrd.img, compressed with gzip; NAME-kernel and NAME-cmdline where there is a kernel", func(w *writing) error { return w.kernelInitrd(true) }},
	{"kernel+initrd-nogz", false, "the same, not compressed: what nitro-cli asks for", func(w *writing) error { return w.kernelInitrd(false) }},
	{"tar", true, "NAME.tar, the whole tree", (*writing).tar},
	{"tar-kernel-initrd", false, "NAME-initrd.tar, with kernel, initrd.img and cmdline in it", (*writing).tarKernelInitrd},
}

// FormatNames are the names of [Formats] in one line.
func FormatNames() string {
	var names []string
	for _, f := range Formats {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// FindFormats finds formats by their names; one that streams must be alone.
func FindFormats(names []string) ([]Format, error) {
	var found []Format
	for _, name := range names {
		i := slices.IndexFunc(Formats, func(f Format) bool { return f.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("format %q: %s, as %s", name, packsEnclaves, FormatNames())
		}
		if Formats[i].Stream && len(names) > 1 {
			return nil, fmt.Errorf("format %s must be the only one", name)
		}
		found = append(found, Formats[i])
	}
	return found, nil
}

// Output says where a tree is written.
type Output struct {
	// Base is what the names of files begin with, with their directory.
	Base string
	// File is the one file of a format that streams, in the place of Base and its ending.
	File string
	// Stdout, when it is not nil, takes a format that streams in the place of a file.
	Stdout  io.Writer
	Formats []Format
	Ramdisk Ramdisk
	// Approve, when it is not nil, has the last word before the files get their names.
	Approve func() error
}

// Write writes the tree in all formats. Files are made aside and all get their names at the end: another program sees
// them complete or not at all. They are not forced to the disk, which takes longer than all the rest and guards against
// nothing but a power failure before the enclave is made of them.
//
// When the context is done Write returns soon, with its cause, and no file is left; what Stdout has taken it has.
func Write(ctx context.Context, t *image.Tree, o Output) error {
	w := &writing{ctx: ctx, t: t, o: o}
	defer w.discard()
	for _, f := range o.Formats {
		if err := f.write(w); err != nil {
			return fmt.Errorf("format %s: %w", f.Name, err)
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
	return w.commit()
}

// writing is the writing of one tree.
type writing struct {
	ctx   context.Context
	t     *image.Tree
	o     Output
	files []*atomicfile.File
}

// file begins a file.
func (w *writing) file(name string) (*atomicfile.File, error) {
	f, err := atomicfile.New(name)
	if err == nil {
		w.files = append(w.files, f)
	}
	return f, err
}

func (w *writing) commit() error {
	for _, f := range w.files {
		if err := publish(f); err != nil {
			return err
		}
	}
	w.files = nil
	return nil
}

func (w *writing) discard() {
	for _, f := range w.files {
		f.Discard()
	}
}

// publish gives a file its name, and lets everybody read it, as the reference does.
func publish(f *atomicfile.File) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return f.Commit()
}

// parts are kernel, command line and microcode, which leave the tree for files of their own.
func (w *writing) parts() (kernel, cmdline, ucode *image.Entry) {
	find := func(name string) *image.Entry {
		if e, ok := w.t.Lookup(name); ok && e.IsRegular() {
			return e
		}
		return nil
	}
	return find(kernelName), find(cmdlineName), find(ucodeName)
}

// ramdisk writes microcode and tree.
func (w *writing) ramdisk(file *os.File, compressed bool) error {
	to := stoppable{w.ctx, file}
	kernel, _, ucode := w.parts()
	if ucode != nil {
		// The kernel looks for microcode in a plain archive at the very start.
		if _, err := w.t.CopyBody(to, ucode); err != nil {
			return err
		}
	}
	o := w.o.Ramdisk
	o.NoBoot = kernel != nil
	if !compressed {
		return WriteRamdisk(to, w.t, o)
	}
	z := gzip.NewWriter(to)
	if err := WriteRamdisk(z, w.t, o); err != nil {
		return err
	}
	return z.Close()
}

func (w *writing) kernelInitrd(compressed bool) error {
	kernel, cmdline, _ := w.parts()
	for _, p := range []struct {
		ending string
		e      *image.Entry
	}{{"-kernel", kernel}, {"-cmdline", cmdline}} {
		if p.e == nil || p.e.Size == 0 {
			continue
		}
		f, err := w.file(w.o.Base + p.ending)
		if err == nil {
			_, err = w.t.CopyBody(stoppable{w.ctx, f.File}, p.e)
		}
		if err != nil {
			return err
		}
	}
	f, err := w.file(w.o.Base + "-initrd.img")
	if err != nil {
		return err
	}
	return w.ramdisk(f.File, compressed)
}

func (w *writing) tar() error {
	if w.o.Stdout != nil {
		return stream(w.ctx, w.o.Stdout, func(to io.Writer) error { return writeTar(to, w.t, w.o.Ramdisk.Epoch) })
	}
	name := w.o.File
	if name == "" {
		name = w.o.Base + ".tar"
	}
	f, err := w.file(name)
	if err != nil {
		return err
	}
	return writeTar(stoppable{w.ctx, f.File}, w.t, w.o.Ramdisk.Epoch)
}

func writeTar(w io.Writer, t *image.Tree, epoch *int64) error {
	latest := int64(math.MaxInt64)
	if epoch != nil {
		latest = *epoch
	}
	return t.WriteTar(w, latest)
}

func (w *writing) tarKernelInitrd() error {
	f, err := w.file(w.o.Base + "-initrd.tar")
	if err != nil {
		return err
	}
	// A tar header has the size, so the ramdisk is made first.
	ramdisk, err := atomicfile.New(w.o.Base + "-initrd.tar")
	if err != nil {
		return err
	}
	defer ramdisk.Discard()
	if err := w.ramdisk(ramdisk.File, true); err != nil {
		return err
	}
	size, err := ramdisk.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = ramdisk.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	kernel, cmdline, _ := w.parts()
	out := tar.NewWriter(stoppable{w.ctx, f.File})
	time := time.Unix(int64(seconds(made, w.o.Ramdisk.Epoch)), 0)
	for _, p := range []struct {
		name string
		e    *image.Entry
		size int64
		r    io.Reader
	}{{name: "kernel", e: kernel}, {name: "initrd.img", size: size, r: ramdisk.File}, {name: "cmdline", e: cmdline}} {
		if p.e != nil {
			p.size, p.r = p.e.Size, w.t.Open(p.e)
		}
		if p.size == 0 {
			continue
		}
		err := out.WriteHeader(&tar.Header{Name: p.name, Mode: 0o644, Size: p.size, ModTime: time, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = io.Copy(out, p.r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return out.Close()
}
