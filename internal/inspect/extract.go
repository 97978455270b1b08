package inspect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
)

// ExtractSections writes each section of a file into a directory, which it makes if necessary: kernel,
// cmdline, metadata.json, ramdisk-0, ramdisk-1 …, signature.cbor, and the certificate from the latter,
// signing-certificate.pem. It fails if one of the files exists. It returns their names.
func ExtractSections(ctx context.Context, f *eif.File, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	var names []string
	put := func(name string, r io.Reader) error {
		out, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(out.Name())
			return fmt.Errorf("%s: %w", out.Name(), err)
		}
		names = append(names, name)
		return context.Cause(ctx)
	}
	disk := 0
	for _, s := range f.Sections {
		name := s.Type.String()
		switch s.Type {
		case eif.Ramdisk:
			name = fmt.Sprintf("ramdisk-%d", disk)
			disk++
		case eif.Meta:
			name = "metadata.json"
		case eif.Signature:
			name = "signature.cbor"
			if entries, err := f.Signatures(); err == nil {
				if err := put("signing-certificate.pem",
					strings.NewReader(string(entries[0].Certificate))); err != nil {
					return names, err
				}
			}
		}
		if err := put(name, f.Content(s)); err != nil {
			return names, err
		}
	}
	return names, nil
}

// ListRamdisks prints the entries of all ramdisks, one a line: the number of the ramdisk, mode, owner, size
// in bytes, and name. After those of a ramdisk with an erofs root, it prints the names in the latter, below
// rootfs/.
func ListRamdisks(ctx context.Context, f *eif.File, out io.Writer) (err error) {
	w := bufio.NewWriter(out)
	defer func() { err = errors.Join(err, w.Flush()) }()
	var roots []bool // of each ramdisk: it has an erofs root
	line := func(i int, n *node, path string) error {
		fmt.Fprintf(w, "%d %s %d:%d %d %s", i, modeText(n.mode), n.uid, n.gid, n.size, printable.Name(path))
		if n.is(initramfs.TypeSymlink) {
			w.WriteString(" -> ")
			w.WriteString(printable.Name(n.target))
		}
		return errors.Join(w.WriteByte('\n'), context.Cause(ctx))
	}
	disks, erofs := f.All(eif.Ramdisk), newWalker(f)
	// begin lists the erofs roots of the ramdisks before the ith.
	begin := func(i int) error {
		for ; len(roots) <= i; roots = append(roots, false) {
			last := len(roots) - 1
			if last < 0 || !roots[last] {
				continue
			}
			err := erofsNames(ctx, erofs, disks[last], func(n *node) error {
				return line(last, n, "rootfs/"+n.path)
			})
			if err != nil {
				return fmt.Errorf("ramdisk %d: %w", last, err)
			}
		}
		return nil
	}
	err = WalkRamdisks(f, func(i int, h *initramfs.Header, body *initramfs.Reader) error {
		if err := begin(i); err != nil {
			return err
		}
		roots[i] = roots[i] || isPart(h.Name)
		n, err := newNode(h, body)
		if err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
		return line(i, n, n.path)
	})
	if err != nil {
		return err
	}
	return begin(len(disks))
}

// UnpackRamdisks unpacks the ramdisks of a file into a directory for each, dir/0, dir/1 …. It writes nothing
// outside of them, whatever the names are. It sets owners if the user may do that. It calls warn for what it
// does not make: device nodes, and the files in an erofs root, which stays an image.
func UnpackRamdisks(ctx context.Context, f *eif.File, dir string, warn func(string)) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var all []*unpacker
	begin := func(i int) error {
		for len(all) <= i {
			dir := filepath.Join(dir, fmt.Sprint(len(all)))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				return err
			}
			all = append(all, &unpacker{root: root, warn: warn})
		}
		return nil
	}
	err := WalkRamdisks(f, func(i int, h *initramfs.Header, body *initramfs.Reader) error {
		if err := errors.Join(context.Cause(ctx), begin(i)); err != nil {
			return err
		}
		if err := all[i].entry(h, body); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
		if isPart(h.Name) && "/"+h.Name == contract.RootPart(0) {
			warn(h.Name + ": the application's tree is an erofs image, which is not unpacked; " +
				"list the ramdisks to see its names")
		}
		return nil
	})
	if err == nil {
		err = begin(len(f.All(eif.Ramdisk)) - 1)
	}
	for _, u := range all {
		if err == nil {
			err = u.finishDirs()
		}
		err = errors.Join(err, u.root.Close())
	}
	return err
}

type unpacker struct {
	root *os.Root
	dirs []initramfs.Header
	warn func(string)
}

func (u *unpacker) entry(h *initramfs.Header, body io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	switch h.Mode & initramfs.TypeMask {
	case initramfs.TypeDir:
		if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		d := *h
		d.Name = name
		u.dirs = append(u.dirs, d)
		return nil
	case initramfs.TypeSymlink:
		n, err := newNode(h, body)
		if err == nil {
			err = u.root.Symlink(n.target, name)
		}
		if err != nil {
			return err
		}
		return u.owner(name, h)
	case initramfs.TypeFile:
		flags := os.O_CREATE | os.O_EXCL
		if h.LinkTo != "" {
			if err := u.root.Link(h.LinkTo, name); err != nil || h.Size == 0 {
				return err
			}
			if err := u.root.Chmod(name, 0o600); err != nil { // the first name's may forbid writing
				return err
			}
			flags = os.O_TRUNC // GNU cpio stores the bytes with the last name
		}
		out, err := u.root.OpenFile(name, os.O_WRONLY|flags, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, body)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
		return u.ownerAndMode(name, h)
	}
	u.warn(printable.Name(h.Name) + ": a device, fifo or socket, which is not made")
	return nil
}

// owner sets the owner of a file if the user may do that.
func (u *unpacker) owner(name string, h *initramfs.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return u.root.Lchown(name, int(h.UID), int(h.GID))
}

func (u *unpacker) ownerAndMode(name string, h *initramfs.Header) error {
	if err := u.owner(name, h); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode & 0o777)
	for i, flag := range []fs.FileMode{fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky} {
		if h.Mode&(0o4000>>i) != 0 {
			mode |= flag
		}
	}
	return u.root.Chmod(name, mode)
}

// finishDirs sets owners and modes of directories. Until then they must be writable.
func (u *unpacker) finishDirs() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := u.ownerAndMode(u.dirs[i].Name, &u.dirs[i]); err != nil {
			return err
		}
	}
	return nil
}
