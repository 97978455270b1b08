package inspect

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// plainMagic is how a newc archive starts.
const plainMagic = "0707"

// openRamdisk reads the archive in a ramdisk section, whatever it is compressed with.
func openRamdisk(f *eif.File, s eif.Section) (*initramfs.Reader, error) {
	content := f.Content(s)
	in, err := compression.Open(content, s.Size)
	if err != nil {
		return nil, err
	}
	if in == nil {
		if !isPlain(f, s) {
			return nil, errors.New("neither a newc archive nor compressed in a format that the kernel reads")
		}
		in = content
	}
	return initramfs.NewReader(in), nil
}

// isPlain says whether a ramdisk is an archive without compression.
func isPlain(f *eif.File, s eif.Section) bool {
	head := make([]byte, len(plainMagic))
	n, _ := f.Content(s).ReadAt(head, 0)
	return string(head[:n]) == plainMagic
}

// walkRamdisk calls use for each entry of a ramdisk. The reader gives the entry's content.
func walkRamdisk(f *eif.File, s eif.Section, use func(*initramfs.Header, *initramfs.Reader) error) error {
	r, err := openRamdisk(f, s)
	if err != nil {
		return err
	}
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := use(h, r); err != nil {
			return err
		}
	}
}

// intruders lists the names in the ramdisks after the first that have no business there. The kernel unpacks
// one ramdisk over the other, so that a later one can replace PID 1 and the driver that PCR1 measures, and
// whoever trusts PCR1 is deceived. At most a few are listed.
func intruders(ctx context.Context, f *eif.File) ([]string, error) {
	const most = 20
	const mostPinned = 1 << 23 // names: a ramdisk of a few compressed megabytes can have a thousand times as many
	var found []string
	var hash maphash.Hash
	symlinks := map[uint64]struct{}{}
	pinned := map[uint64]struct{}{} // names of files with hard links, and the directories above them
	var above []uint64              // hashes of the directories above a name, the root's not among them
	var ends []int                  // and where their names end
	errEnough := errors.New("enough")

	for i, s := range f.All(eif.Ramdisk) {
		report := func(format string, args ...any) error {
			found = append(found, fmt.Sprintf("ramdisk %d: ", i)+fmt.Sprintf(format, args...))
			if len(found) >= most {
				return errEnough
			}
			return nil
		}
		err := walkRamdisk(f, s, func(h *initramfs.Header, _ *initramfs.Reader) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			name := path.Clean("/" + h.Name)
			kind := h.Mode & initramfs.TypeMask
			hash.Reset()
			above, ends = above[:0], ends[:0]
			start := 0
			for i := 1; i < len(name); i++ {
				if name[i] == '/' {
					hash.WriteString(name[start:i])
					above, ends = append(above, hash.Sum64()), append(ends, i)
					start = i
				}
			}
			hash.WriteString(name[start:])
			self := hash.Sum64()
			if i > 0 {
				if !contract.Belongs(name, false) {
					return report("%q does not belong into it: it would be unpacked over the bootstrap", h.Name)
				}
				// path.Clean takes rootfs/a/../init for rootfs/init, and the kernel goes by what rootfs/a is.
				if err := checkPlain(h.Name); err != nil {
					return report("%v: it could be unpacked somewhere else", err)
				}
				// The kernel follows symbolic links on its way to a name: rootfs/a -> / and rootfs/a/init is
				// /init.
				for n, parent := range above {
					if _, ok := symlinks[parent]; ok {
						return report("%q leads through the symbolic link %q: it would be unpacked somewhere else", h.Name, name[1:ends[n]])
					}
				}
				// It writes the second name of a file by the first (init/initramfs.c, maybe_link): where that
				// has become a symbolic link, or leads through one, it writes what the link points to.
				if _, ok := pinned[self]; ok && kind != initramfs.TypeDir {
					return report("%q replaces what a hard link goes by: the link could be unpacked somewhere else", h.Name)
				}
				if h.Links > 1 && kind != initramfs.TypeDir {
					for _, at := range append(above, self) {
						pinned[at] = struct{}{}
					}
					if len(pinned) > mostPinned {
						return fmt.Errorf("hard links with more than %d names and directories: too many to say that none leads elsewhere", mostPinned)
					}
				}
			}
			if kind == initramfs.TypeSymlink {
				symlinks[self] = struct{}{}
			}
			return nil
		})
		if err == errEnough {
			return append(found, "and more"), nil
		}
		if err != nil {
			return found, fmt.Errorf("ramdisk %d: %w", i, err)
		}
	}
	return found, nil
}

// checkPlain says why a name does not say by itself where it is. "./" before it is what `find . | cpio`
// makes, "/" what some other writers do.
func checkPlain(name string) error {
	rest, ok := strings.CutPrefix(name, "./")
	if !ok {
		rest = strings.TrimPrefix(name, "/")
	}
	if name != "" && (rest == "" || rest == ".") {
		return nil // the root
	}
	return initramfs.CheckName(rest)
}
