package linuxkit

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Options are the inputs of [Build] that are not in the YAML.
type Options struct {
	// Open finds an image by its name in the YAML.
	Open func(ctx context.Context, ref string) (*image.Image, error)
	// Dir is the directory of the temporary files that hold the layers' bodies until the tree is closed.
	// Empty means os.TempDir().
	Dir string
	// Limits bound the cost of images.
	Limits image.Limits
}

// Marker is the last entry of a ramdisk with an application. init checks that it is there
// (docs/init-contract.md).
func Marker() *image.Marker {
	return &image.Marker{
		Path:    strings.TrimPrefix(contract.CompletePath, "/"),
		Content: contract.Complete,
		ModTime: contract.CompleteTime,
	}
}

// made is the modification time of files that no image brings: LinuxKit's.
const made = contract.CompleteTime

// Build makes the tree of a configuration: the images of init, each over the one before it, then the files.
// The caller closes it.
func Build(ctx context.Context, c *Config, o Options) (_ *image.Tree, err error) {
	t := image.NewTree(o.Dir, o.Limits)
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if c.Prefix != "" && len(c.Init) > 0 {
		if err := addFile(t, &File{Path: c.Prefix, Directory: true, Mode: "0755"}); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
	}
	for i, ref := range c.Init {
		img, err := o.Open(ctx, ref)
		if err == nil {
			t.CloseLater(img)
			err = t.AddImage(ctx, img, c.Prefix)
		}
		if err != nil {
			if i > 0 {
				err = fmt.Errorf("%w (it goes over %s)", err, strings.Join(c.Init[:i], ", "))
			}
			return nil, fmt.Errorf("init: %w", err)
		}
		if err := present(t, c.Prefix); err != nil {
			return nil, fmt.Errorf("init: image %s: %w", ref, err)
		}
	}
	for i := range c.Files {
		f, root := c.Files[i], t
		if below, ok := strings.CutPrefix(strings.Trim(f.Path, "/"), c.Prefix); ok && c.Prefix != "" &&
			len(c.Init) > 0 {
			// Links of the images lead on from the images' root.
			if root, err = t.Sub(c.Prefix); err != nil {
				return nil, fmt.Errorf("files: %s: %w", f.Path, err)
			}
			f.Path = below
		}
		if err := addFile(root, &f); err != nil {
			return nil, fmt.Errorf("files: %w", err)
		}
	}
	return t, nil
}

// presented lists what LinuxKit changes in the tree of an image, so that it looks as a container sees it.
var presented = []struct {
	path    string
	how     change
	mode    uint32
	content string // of a file; the target of a symbolic link
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

// change is what happens to an entry: it is removed, created if it is missing, or replaced.
type change int

const (
	remove change = iota
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
		if _, exists := in.Lookup(p.path); exists && p.how == create {
			continue
		}
		if p.how != create {
			if err := in.Remove(p.path); err != nil {
				return err
			}
		}
		if p.how == remove {
			continue
		}
		e := &image.Entry{Path: p.path, Mode: p.mode, ModTime: made}
		var content []byte
		if e.Mode&initramfs.TypeMask == initramfs.TypeSymlink {
			e.Target = p.content
		} else {
			content = []byte(p.content)
		}
		if err := in.Put(e, content); err != nil {
			return err
		}
	}
	return nil
}

func addFile(t *image.Tree, f *File) error {
	mode, err := f.mode()
	if err != nil {
		return err
	}
	e := &image.Entry{Path: strings.Trim(f.Path, "/"), UID: uint32(f.UID), GID: uint32(f.GID), ModTime: made}
	source := f.Source
	if source != "" {
		if rest, ok := strings.CutPrefix(source, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			source = filepath.Join(home, rest)
		}
		// Checked first: the parents of an omitted file are omitted too.
		if _, err := os.Stat(source); err != nil {
			if f.Optional {
				return nil
			}
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := parents(t, e, mode); err != nil {
		return err
	}
	switch {
	case source != "":
		e.Mode = initramfs.TypeFile | mode
		return t.PutFile(e, source)
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

// parents creates the missing directories above e, with its owner and its mode. A class of users that has any
// permission on e may search them.
func parents(t *image.Tree, e *image.Entry, mode uint32) error {
	for _, class := range []uint32{0o700, 0o070, 0o007} {
		if mode&class != 0 {
			mode |= class & 0o111
		}
	}
	parts := strings.FieldsFunc(path.Dir(e.Path), func(r rune) bool { return r == '/' })
	for i := range parts {
		dir := strings.Join(parts[:i+1], "/")
		if _, ok := t.Lookup(dir); ok || dir == "." {
			continue
		}
		p := *e
		p.Path, p.Mode = dir, initramfs.TypeDir|mode&0o777
		if err := t.Put(&p, nil); err != nil {
			return err
		}
	}
	return nil
}
