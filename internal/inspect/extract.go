package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// ExtractSections writes each section of a file into a directory, which is made: kernel, cmdline,
// metadata.json, ramdisk-0, ramdisk-1 …, signature.cbor, and beside the last the certificate that is in it,
// signing-certificate.pem. Files that are there already are not replaced. It returns the names.
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
				if err := put("signing-certificate.pem", strings.NewReader(string(entries[0].Certificate))); err != nil {
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

// ListRamdisks prints the entries of all ramdisks, one a line: the number of the ramdisk, mode, owner, size,
// and name. After those of a ramdisk with an erofs root come the names in that, as they will be below
// /rootfs.
func ListRamdisks(ctx context.Context, f *eif.File, w io.Writer) error {
	for i, s := range f.All(eif.Ramdisk) {
		err := walkRamdisk(f, s, func(h *initramfs.Header, body *initramfs.Reader) error {
			name := visible(h.Name)
			if h.Mode&initramfs.TypeMask == initramfs.TypeSymlink {
				target, err := readTarget(body)
				if err != nil {
					return err
				}
				name += " -> " + visible(target)
			}
			if _, err := fmt.Fprintf(w, "%d %s %d:%d %d %s\n", i, modeText(h.Mode), h.UID, h.GID, h.Size, name); err != nil {
				return err
			}
			return context.Cause(ctx)
		})
		if err == nil {
			err = listErofs(ctx, f, s, func(e *erofsEntry) error {
				name := visible("rootfs/" + e.path)
				if e.target != "" {
					name += " -> " + visible(e.target)
				}
				_, err := fmt.Fprintf(w, "%d %s %d:%d %d %s\n", i, modeText(e.mode), e.uid, e.gid, e.size, name)
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return nil
}

// visible is a name on a line of its own: quoted as Go has it when a line break or another character that
// does not show would make it look like something else.
func visible(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` || strings.Contains(name, " -> ") {
		return quoted
	}
	return name
}

// modeText is a mode as ls -l has it.
func modeText(mode uint32) string {
	const types = "?pc?d?b?-?l?s???"
	text := []byte(fmt.Sprintf("%crwxrwxrwx", types[mode>>12&15]))
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			text[1+i] = '-'
		}
	}
	for i, bit := range []struct {
		mask uint32
		c    byte
	}{{0o4000, 's'}, {0o2000, 's'}, {0o1000, 't'}} {
		if mode&bit.mask != 0 {
			at := 3 * (i + 1)
			if text[at] == '-' {
				bit.c -= 'a' - 'A'
			}
			text[at] = bit.c
		}
	}
	return string(text)
}

// UnpackRamdisks unpacks the ramdisks of a file into a directory for each, dir/0, dir/1 …. Nothing is written
// outside of them, whatever the names say. Owners are set where the user may do that; what cannot be made
// (device nodes), and an erofs root, which stays the image it is, is passed to warn.
func UnpackRamdisks(ctx context.Context, f *eif.File, dir string, warn func(string)) error {
	for i, s := range f.All(eif.Ramdisk) {
		top := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if err := os.Mkdir(top, 0o755); err != nil {
			return err
		}
		root, err := os.OpenRoot(top)
		if err != nil {
			return err
		}
		u := unpacker{root: root, links: map[hardLink]string{}, warn: warn}
		err = walkRamdisk(f, s, func(h *initramfs.Header, body *initramfs.Reader) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := u.entry(h, body, body.Archive()); err != nil {
				return fmt.Errorf("%q: %w", h.Name, err)
			}
			if i > 0 && "/"+h.Name == contract.RootPart(0) {
				warn(fmt.Sprintf("ramdisk %d: the application's tree is an erofs image, and stays one (%s); a list of the ramdisks shows its names", i, h.Name))
			}
			return nil
		})
		if err == nil {
			err = u.modes()
		}
		if err = errors.Join(err, root.Close()); err != nil {
			return fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return nil
}

// readTarget reads what a symbolic link points to, which [initramfs.Reader] bounds.
func readTarget(body io.Reader) (string, error) {
	target, err := io.ReadAll(body)
	return string(target), err
}

// hardLink is what all names of a file have in common (init/initramfs.c, find_link).
type hardLink struct {
	archive int
	device  [2]uint32
	inode   uint32
}

type unpacker struct {
	root  *os.Root
	links map[hardLink]string // the first name of each file that has several
	dirs  []initramfs.Header
	warn  func(string)
}

func (u *unpacker) entry(h *initramfs.Header, body io.Reader, archive int) error {
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
		target, err := readTarget(body)
		if err != nil {
			return err
		}
		if err := u.root.Symlink(target, name); err != nil {
			return err
		}
		return u.owner(name, h)
	case initramfs.TypeFile:
		flags, file := os.O_CREATE|os.O_EXCL, hardLink{archive, h.Device, h.Inode}
		if first, ok := u.links[file]; ok && h.Links > 1 {
			if err := u.root.Link(first, name); err != nil || h.Size == 0 {
				return err
			}
			if err := u.root.Chmod(name, 0o600); err != nil { // the first name's may forbid writing
				return err
			}
			flags = os.O_TRUNC // GNU cpio gives the bytes to the last name
		} else if h.Links > 1 {
			u.links[file] = name
		}
		out, err := u.root.OpenFile(name, os.O_WRONLY|flags, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, body)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
		if err := u.owner(name, h); err != nil {
			return err
		}
		return u.root.Chmod(name, fileMode(h.Mode))
	}
	u.warn(fmt.Sprintf("%s is a device, fifo or socket, and is not made", visible(h.Name)))
	return nil
}

// owner sets the owner of a file, where that is allowed.
func (u *unpacker) owner(name string, h *initramfs.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return u.root.Lchown(name, int(h.UID), int(h.GID))
}

// modes sets those of directories, when nothing more has to be made in them.
func (u *unpacker) modes() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := &u.dirs[i]
		if err := u.owner(d.Name, d); err != nil {
			return err
		}
		if err := u.root.Chmod(d.Name, fileMode(d.Mode)); err != nil {
			return err
		}
	}
	return nil
}

// fileMode is a mode as Go has it.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
