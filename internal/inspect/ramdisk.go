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

// openRamdisk opens the archive in a ramdisk section, which may be compressed.
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

// isPlain reports whether a ramdisk is an archive without compression.
func isPlain(f *eif.File, s eif.Section) bool {
	head := make([]byte, len(plainMagic))
	n, _ := f.Content(s).ReadAt(head, 0)
	return string(head[:n]) == plainMagic
}

// walkRamdisk calls use for each entry of a ramdisk, with a reader of the entry's content.
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

// maxForeign is the largest number of foreign names that are listed, maxPinned that of names and directories
// of hard links that are remembered: a compressed ramdisk of some megabytes can have a thousand times as
// many.
const (
	maxForeign = 20
	maxPinned  = 1 << 23
)

// foreignNames lists the names in the ramdisks after the first that do not belong there. The kernel unpacks
// one ramdisk over the other, so that a later one can replace PID 1 and the driver that PCR1 measures, and
// PCR1 would identify nothing.
func foreignNames(ctx context.Context, f *eif.File) ([]string, error) {
	w := nameWatch{symlinks: map[uint64]struct{}{}, pinned: map[uint64]struct{}{}}
	var found []string
	for i, s := range f.All(eif.Ramdisk) {
		err := walkRamdisk(f, s, func(h *initramfs.Header, _ *initramfs.Reader) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			what, err := w.entry(h, i > 0)
			if what != "" {
				found = append(found, fmt.Sprintf("ramdisk %d: %s", i, what))
			}
			if len(found) >= maxForeign {
				return errEnough
			}
			return err
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

var errEnough = errors.New("enough")

// nameWatch follows where the kernel unpacks the names of archives. Names are kept as hashes of their paths.
type nameWatch struct {
	hash     maphash.Hash
	symlinks map[uint64]struct{}
	pinned   map[uint64]struct{} // names of files with hard links, and the directories above them

	above []uint64 // of the current name: hashes of the directories above it, without the root
	ends  []int    // where their names end in it
}

// entry returns what is wrong with the next entry, which is checked if its ramdisk is a later one.
func (w *nameWatch) entry(h *initramfs.Header, later bool) (string, error) {
	name, kind := path.Clean("/"+h.Name), h.Mode&initramfs.TypeMask
	self := w.split(name)
	what, err := "", error(nil)
	if later {
		what, err = w.check(h, name, self)
	}
	if kind == initramfs.TypeSymlink {
		w.symlinks[self] = struct{}{}
	}
	return what, err
}

// split hashes a clean name and sets above and ends.
func (w *nameWatch) split(name string) uint64 {
	w.hash.Reset()
	w.above, w.ends = w.above[:0], w.ends[:0]
	start := 0
	for i := 1; i < len(name); i++ {
		if name[i] == '/' {
			w.hash.WriteString(name[start:i])
			w.above, w.ends = append(w.above, w.hash.Sum64()), append(w.ends, i)
			start = i
		}
	}
	w.hash.WriteString(name[start:])
	return w.hash.Sum64()
}

func (w *nameWatch) check(h *initramfs.Header, name string, self uint64) (string, error) {
	if !contract.Belongs(name, false) {
		return fmt.Sprintf("%q does not belong there: the kernel unpacks it over the first ramdisk", h.Name), nil
	}
	// path.Clean turns rootfs/a/../init into rootfs/init, but for the kernel it depends on what rootfs/a is.
	if err := checkPlain(h.Name); err != nil {
		return fmt.Sprintf("%v: the kernel could unpack it elsewhere", err), nil
	}
	// The kernel follows symbolic links on its way to a name: with rootfs/a -> /, rootfs/a/init is /init.
	for n, parent := range w.above {
		if _, ok := w.symlinks[parent]; ok {
			return fmt.Sprintf("%q leads through the symbolic link %q: the kernel unpacks it elsewhere",
				h.Name, name[1:w.ends[n]]), nil
		}
	}
	if h.Mode&initramfs.TypeMask == initramfs.TypeDir {
		return "", nil
	}
	// The kernel writes the second name of a file through the first (init/initramfs.c, maybe_link). If that
	// has become a symbolic link, or leads through one, it writes to the link's target.
	if _, ok := w.pinned[self]; ok {
		return fmt.Sprintf("%q replaces the path of a hard link: the kernel could unpack the link elsewhere",
			h.Name), nil
	}
	if h.Links > 1 {
		for _, at := range append(w.above, self) {
			w.pinned[at] = struct{}{}
		}
		if len(w.pinned) > maxPinned {
			return "", fmt.Errorf("hard links with more than %d names and directories: too many to check", maxPinned)
		}
	}
	return "", nil
}

// checkPlain rejects a name that is not the path that it is unpacked to. `find . | cpio` writes "./" before
// names, and other programs "/".
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
