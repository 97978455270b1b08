package linuxkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Options are what does not stand in the YAML.
type Options struct {
	// Open finds an image by the name that the YAML gives it.
	Open func(ctx context.Context, ref string) (*image.Image, error)
	// Dir is where the layers' bodies are kept, in files without a name, until the tree is closed. "" is os.TempDir().
	Dir string
	// Limits bound what images may cost.
	Limits image.Limits
}

// made is the time of files that no image brings: LinuxKit's, roughly when it was published.
var made = time.Date(2017, time.April, 18, 16, 30, 0, 0, time.UTC).Unix()

const (
	kernelName  = "boot/kernel"
	cmdlineName = "boot/cmdline"
	ucodeName   = "boot/ucode.cpio"
)

// Build makes the tree of a configuration: the kernel's, then the images of init one over the other, then the files.
// The caller closes it.
func Build(ctx context.Context, c *Config, o Options) (_ *image.Tree, err error) {
	if err := checkPrefix(c.Prefix); err != nil {
		return nil, err
	}
	t := image.NewTree(o.Dir, o.Limits)
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if c.Kernel.Image != "" {
		if err := addKernel(ctx, t, &c.Kernel, o); err != nil {
			return nil, fmt.Errorf("kernel: %w", err)
		}
	}
	for _, ref := range c.Init {
		if err := addImage(ctx, t, ref, c.Prefix, o); err != nil {
			return nil, fmt.Errorf("init: %w", err)
		}
		if err := present(t, c.Prefix); err != nil {
			return nil, fmt.Errorf("init: image %s: %w", ref, err)
		}
	}
	for i := range c.Files {
		if err := addFile(t, &c.Files[i]); err != nil {
			return nil, fmt.Errorf("files: %w", err)
		}
	}
	return t, nil
}

func addImage(ctx context.Context, t *image.Tree, ref, prefix string, o Options) error {
	img, err := o.Open(ctx, ref)
	if err != nil {
		return err
	}
	t.CloseLater(img)
	return t.AddImage(ctx, img, prefix)
}

// presented is what LinuxKit changes in the tree of an image, which is what a container sees of it: removed, made where it
// is missing, or put in place of what is there.
var presented = []struct {
	path    string
	how     int
	mode    uint32
	content string
}{
	{".dockerenv", remove, 0, ""},
	{"dev/console", remove, 0, ""},
	{"etc/hostname", remove, 0, ""},
	{"dev", create, initramfs.TypeDir | 0o755, ""},
	{"dev/pts", create, initramfs.TypeDir | 0o755, ""},
	{"dev/shm", create, initramfs.TypeDir | 0o755, ""},
	{"etc", create, initramfs.TypeDir | 0o755, ""},
	{"etc/mtab", create, initramfs.TypeSymlink | 0o777, "/proc/mounts"},
	{"proc", create, initramfs.TypeDir | 0o755, ""},
	{"sys", create, initramfs.TypeDir | 0o755, ""},
	{"etc/hosts", replace, initramfs.TypeFile | 0o644, hosts},
	{"etc/resolv.conf", replace, initramfs.TypeSymlink | 0o777, "/run/resolvconf/resolv.conf"},
}

const (
	remove = iota
	create
	replace
)

const hosts = `127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
`

func present(t *image.Tree, prefix string) error {
	in, err := t.Sub(prefix)
	if err != nil {
		return err
	}
	for _, p := range presented {
		_, there := in.Lookup(p.path)
		e := &image.Entry{Path: p.path, Mode: p.mode, ModTime: made}
		var content []byte
		if e.Mode&initramfs.TypeMask == initramfs.TypeSymlink {
			e.Target = p.content
		} else {
			content = []byte(p.content)
		}
		var err error
		switch {
		case p.how == replace || p.how == remove && there:
			if err = in.Remove(p.path); err == nil && p.how == replace {
				err = in.Put(e, content)
			}
		case p.how == create && !there:
			err = in.Put(e, content)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addKernel takes kernel, microcode and modules out of an image.
func addKernel(ctx context.Context, t *image.Tree, k *Kernel, o Options) error {
	img, err := o.Open(ctx, k.Image)
	if err != nil {
		return err
	}
	defer img.Close()
	from := image.NewTree(o.Dir, o.Limits)
	defer from.Close()
	if err := from.AddImage(ctx, img, ""); err != nil {
		return err
	}
	find := func(name string) (*image.Entry, error) {
		e, ok := from.Lookup(name)
		if !ok || !e.IsRegular() {
			return nil, fmt.Errorf("image %s holds no file %s", k.Image, name)
		}
		return e, nil
	}
	binary, archive, ucode := "kernel", "kernel.tar", ""
	if k.Binary != "" {
		binary = k.Binary
	}
	if k.Tar != nil {
		if archive = *k.Tar; archive == "none" {
			archive = ""
		}
	}
	if k.UCode != nil {
		ucode = *k.UCode
	}
	if err := t.Put(&image.Entry{Path: "boot", Mode: initramfs.TypeDir | 0o755, ModTime: made}, nil); err != nil {
		return err
	}
	if err := t.Put(&image.Entry{Path: cmdlineName, Mode: initramfs.TypeFile | 0o644, ModTime: made}, []byte(k.Cmdline)); err != nil {
		return err
	}
	for _, f := range []struct{ name, to string }{{binary, kernelName}, {ucode, ucodeName}} {
		if f.name == "" {
			continue
		}
		e, err := find(f.name)
		if err != nil {
			return err
		}
		to := *e
		to.Path, to.ModTime = f.to, made
		if err := t.PutReader(&to, from.Open(e)); err != nil {
			return err
		}
	}
	if archive == "" {
		return nil
	}
	e, err := find(archive)
	if err != nil {
		return err
	}
	return t.AddTarReader(ctx, from.Open(e), "")
}

func addFile(t *image.Tree, f *File) error {
	if err := f.check(); err != nil {
		return err
	}
	mode, err := f.mode()
	if err != nil {
		return err
	}
	e := &image.Entry{Path: strings.Trim(f.Path, "/"), UID: f.UID, GID: f.GID, ModTime: made}
	if f.Source != "" {
		// The source is looked at first: where it is left out, its parents are too.
		source := f.Source
		if rest, ok := strings.CutPrefix(source, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			source = filepath.Join(home, rest)
		}
		if _, err := os.Stat(source); err != nil {
			if f.Optional {
				return nil
			}
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if err := parents(t, e, mode); err != nil {
			return err
		}
		e.Mode = initramfs.TypeFile | mode
		return t.PutFile(e, source)
	}
	if err := parents(t, e, mode); err != nil {
		return err
	}
	switch {
	case f.Directory:
		e.Mode = initramfs.TypeDir | mode
	case f.Symlink != "":
		e.Mode, e.Target = initramfs.TypeSymlink|0o777, f.Symlink
	default:
		e.Mode = initramfs.TypeFile | mode
		return t.Put(e, []byte(*f.Contents))
	}
	return t.Put(e, nil)
}

// parents makes the directories above e that are missing, with its owner and a mode that lets in whom e lets in.
func parents(t *image.Tree, e *image.Entry, mode uint32) error {
	for _, class := range []uint32{0o700, 0o070, 0o007} {
		if mode&class != 0 {
			mode |= class & 0o111
		}
	}
	dir := path.Dir(e.Path)
	for i := 0; i <= len(dir) && dir != "."; i++ {
		if i < len(dir) && dir[i] != '/' || i > 0 && dir[i-1] == '/' {
			continue
		}
		if _, ok := t.Lookup(dir[:i]); ok {
			continue
		}
		p := *e
		p.Path, p.Mode = dir[:i], initramfs.TypeDir|mode&0o777
		if err := t.Put(&p, nil); err != nil {
			return err
		}
	}
	return nil
}

// Ramdisk says how a tree is written.
type Ramdisk struct {
	// Epoch, when it is not nil, is the latest time that an entry may have, in seconds since 1970 (SOURCE_DATE_EPOCH).
	Epoch *int64
	// Complete adds /neb/complete as the last entry, which proves to init that all before it was unpacked
	// (docs/init-contract.md). One that the tree has is lost; a /neb that is no directory is an error.
	Complete bool
	// NoBoot leaves out what is below boot/, as LinuxKit does: kernel, command line and microcode are written beside the ramdisk. The
	// rest is lost.
	NoBoot bool
	// Lost is told what the archive cannot hold, by path: extended attributes, a file of 4 GiB or more, which is left out.
	// An error that it returns ends the writing. Nil makes any loss an error.
	Lost func(path, what string) error
}

// completeName and completeText are of docs/init-contract.md.
const (
	completeName = "neb/complete"
	completeText = "neb ramdisk complete 1\n"
)

// WriteRamdisk writes the tree as a newc archive. When w is an *os.File the kernel copies the large bodies.
func WriteRamdisk(w io.Writer, t *image.Tree, o Ramdisk) error {
	out := initramfs.NewWriter(w)
	lost := o.Lost
	if lost == nil {
		lost = func(path, what string) error { return fmt.Errorf("%s: %s", path, what) }
	}
	neb := false
	names := map[uint32]bool{} // inodes with several names of which one has been written, with the bytes
	err := t.Walk(func(e *image.Entry) error {
		if o.NoBoot && strings.HasPrefix(e.Path, "boot/") {
			if e.IsDir() || e.Path == kernelName || e.Path == cmdlineName || e.Path == ucodeName {
				return nil
			}
			return lost(e.Path, "it is left out, as all of boot/ is beside a "+kernelName)
		}
		if o.Complete && (e.Path == completeName || strings.HasPrefix(e.Path, completeName+"/")) {
			return lost(e.Path, "it is the tree's own and is left out: the last entry has this name, by which init knows that all was unpacked")
		}
		if o.Complete && e.Path == path.Dir(completeName) {
			if neb = e.IsDir(); !neb {
				return fmt.Errorf("%s: expected a directory or nothing, found the mode %o: %s goes below it, by which init knows that all was unpacked (give the images a prefix)",
					e.Path, e.Mode, completeName)
			}
		}
		for _, x := range e.Xattrs {
			if err := lost(e.Path, fmt.Sprintf("the extended attribute %s is lost: an initramfs holds none", x.Name)); err != nil {
				return err
			}
		}
		return write(out, t, e, o.Epoch, names, lost)
	})
	if err != nil {
		return err
	}
	if o.Complete {
		if !neb {
			err = out.WriteHeader(&initramfs.Header{Name: path.Dir(completeName), Mode: initramfs.TypeDir | 0o755, ModTime: seconds(made, o.Epoch)})
		}
		if err == nil {
			err = out.WriteHeader(&initramfs.Header{Name: completeName, Mode: initramfs.TypeFile | 0o644, ModTime: seconds(made, o.Epoch), Size: int64(len(completeText))})
		}
		if err == nil {
			_, err = io.WriteString(out, completeText)
		}
		if err != nil {
			return err
		}
	}
	return out.Close()
}

// write writes one entry.
func write(out *initramfs.Writer, t *image.Tree, e *image.Entry, epoch *int64, names map[uint32]bool, lost func(path, what string) error) error {
	h := initramfs.Header{
		Name: e.Path, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: seconds(e.ModTime, epoch),
		Size: e.Size, Major: e.Major, Minor: e.Minor, Inode: e.Inode, Links: e.Links,
	}
	switch {
	case e.IsDir():
		h.Links = 0
	case e.Target != "":
		h.Size, h.Links = int64(len(e.Target)), 1 // the kernel makes each name of a linked symbolic link anew
	}
	if err := h.Check(); err != nil {
		if errors.Is(err, initramfs.ErrTooLarge) {
			return lost(e.Path, fmt.Sprintf("it has %d bytes and is left out: an initramfs holds no file of 4 GiB or more", e.Size))
		}
		return err
	}
	if e.Links > 1 && e.IsRegular() {
		if names[e.Inode] {
			h.Size = 0
		}
		names[e.Inode] = true
	}
	if err := out.WriteHeader(&h); err != nil {
		return err
	}
	var err error
	switch {
	case e.Target != "":
		_, err = io.WriteString(out, e.Target)
	case h.Size > 0:
		_, err = t.CopyBody(out, e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// seconds fits a time into the 32 bits that an archive has for it.
func seconds(t int64, epoch *int64) uint32 {
	if epoch != nil {
		t = min(t, *epoch)
	}
	return uint32(max(0, min(t, math.MaxUint32)))
}
