package inspect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Tools runs programs of erofs-utils, in the sandbox of `neb build`.
type Tools interface {
	// Work makes a directory for files that the programs read and write.
	Work(context.Context) (string, error)
	// Run runs a program by its path in the sandbox, where work's subdirectories src and out are /src and
	// /out.
	Run(ctx context.Context, work string, args ...string) error
}

// erofsRoot is an erofs root that a ramdisk holds in parts, joined in a directory that goes away with it.
type erofsRoot struct {
	*erofsImage
	work string
	file *os.File
}

// openErofsRoot joins the parts of an erofs root; nil where a ramdisk has none. The directory is made by
// work.
func openErofsRoot(f *eif.File, s eif.Section, work func() (string, error)) (_ *erofsRoot, err error) {
	if found, err := hasErofs(f, s); err != nil || !found {
		return nil, err
	}
	r := &erofsRoot{}
	if r.work, err = work(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	for _, sub := range []string{"src", "out"} {
		if err := os.MkdirAll(filepath.Join(r.work, sub), 0o777); err != nil {
			return nil, err
		}
	}
	name := filepath.Join(r.work, "src", "root.erofs")
	if err := joinParts(f, s, name); err != nil {
		return nil, err
	}
	if r.file, err = os.Open(name); err != nil {
		return nil, err
	}
	info, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	r.erofsImage, err = openErofs(r.file, info.Size())
	return r, err
}

func (r *erofsRoot) close() error {
	if r.file != nil {
		r.file.Close()
	}
	return removeTree(r.work)
}

// listErofs calls use for each name in the erofs root of a ramdisk. It does nothing when there is none.
func listErofs(ctx context.Context, f *eif.File, s eif.Section, use func(*erofsEntry) error) error {
	r, err := openErofsRoot(f, s, func() (string, error) { return os.MkdirTemp("", "neb-erofs-*") })
	if err != nil || r == nil {
		return err
	}
	err = r.walk(func(e *erofsEntry) error { return errOr(context.Cause(ctx), use(e)) })
	return errors.Join(err, r.close())
}

// readErofs calls use for each name in the erofs root of a ramdisk, with the digest of what a file holds. The
// tools inflate the files.
func readErofs(ctx context.Context, tools Tools, f *eif.File, s eif.Section, use func(*erofsEntry, [sha256.Size]byte) error) error {
	if tools == nil {
		return errors.New("its erofs root is read with fsck.erofs in the sandbox of 'neb build', which this machine does not have")
	}
	r, err := openErofsRoot(f, s, func() (string, error) { return tools.Work(ctx) })
	if err != nil || r == nil {
		return err
	}
	err = func() error {
		if err := tools.Run(ctx, r.work, "/usr/bin/fsck.erofs", "--extract=/out/root", "--no-preserve", "/src/root.erofs"); err != nil {
			return fmt.Errorf("fsck.erofs: %w", err)
		}
		files, err := os.OpenRoot(filepath.Join(r.work, "out", "root"))
		if err != nil {
			return err
		}
		defer files.Close()
		return r.walk(func(e *erofsEntry) error {
			var sum [sha256.Size]byte
			switch e.mode & initramfs.TypeMask {
			case initramfs.TypeDir: // modes may forbid to look
				if err := files.Chmod(e.path, 0o700); err != nil {
					return err
				}
			case initramfs.TypeFile:
				if err := files.Chmod(e.path, 0o600); err != nil {
					return err
				}
				in, err := files.Open(e.path)
				if err != nil {
					return err
				}
				defer in.Close()
				h := sha256.New()
				if _, err := io.Copy(h, in); err != nil {
					return err
				}
				h.Sum(sum[:0])
			}
			return errOr(context.Cause(ctx), use(e, sum))
		})
	}()
	return errors.Join(err, r.close())
}

func isPart(name string) bool {
	return contract.Belongs("/"+name, false) && strings.HasPrefix("/"+name, strings.TrimSuffix(contract.RootPart(0), "0"))
}

func hasErofs(f *eif.File, s eif.Section) (found bool, err error) {
	err = walkRamdisk(f, s, func(h *initramfs.Header, _ *initramfs.Reader) error {
		found = found || isPart(h.Name)
		return nil
	})
	return found, err
}

// joinParts writes the parts of an erofs image, which stand in their order in the ramdisk, one after the
// other.
func joinParts(f *eif.File, s eif.Section, name string) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	next := 0
	err = walkRamdisk(f, s, func(h *initramfs.Header, body *initramfs.Reader) error {
		if !isPart(h.Name) {
			return nil
		}
		if want := contract.RootPart(next); "/"+h.Name != want {
			return fmt.Errorf("part %s comes where %s should", h.Name, strings.TrimPrefix(want, "/"))
		}
		next++
		_, err := io.Copy(out, body)
		return err
	})
	return errors.Join(err, out.Close())
}

// removeTree removes a tree whose directories may forbid it.
func removeTree(dir string) error {
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// diffErofs compares the erofs roots of two ramdisks file by file.
func diffErofs(ctx context.Context, tools Tools, a, b *eif.File, sa, sb eif.Section, d Difference, report func(Difference)) error {
	type seen struct {
		*erofsEntry
		sum   [sha256.Size]byte
		again bool
	}
	d.Section += ", erofs root"
	say := func(path, format string, args ...any) {
		d.Path, d.What = path, fmt.Sprintf(format, args...)
		report(d)
	}
	entries := map[string]*seen{}
	var names []string
	err := readErofs(ctx, tools, a, sa, func(e *erofsEntry, sum [sha256.Size]byte) error {
		entries[e.path] = &seen{erofsEntry: e, sum: sum}
		names = append(names, e.path)
		return nil
	})
	if err == nil {
		err = readErofs(ctx, tools, b, sb, func(e *erofsEntry, sum [sha256.Size]byte) error {
			old, ok := entries[e.path]
			if !ok {
				say(e.path, "only the second file has it")
				return nil
			}
			old.again = true
			if what := compareErofs(old.erofsEntry, e, old.sum == sum); what != "" {
				say(e.path, "%s", what)
			}
			return nil
		})
	}
	if err != nil {
		say("", "its files cannot be compared: %v", err)
		return context.Cause(ctx)
	}
	for _, name := range names {
		if !entries[name].again {
			say(name, "only the first file has it")
		}
	}
	return nil
}

// compareErofs says how two entries of the same name differ, or nothing.
func compareErofs(x, y *erofsEntry, same bool) string {
	header := func(e *erofsEntry) initramfs.Header {
		return initramfs.Header{Mode: e.mode, UID: e.uid, GID: e.gid, Links: e.links, Major: e.major, Minor: e.minor, Size: e.size}
	}
	a, b := &entry{header: header(x)}, &entry{header: header(y)}
	if !same {
		b.sum[0] = 1
	}
	var what []string
	if text := compareEntries(a, b); text != "" {
		what = append(what, text)
	}
	if x.time != y.time {
		what = append(what, fmt.Sprintf("time %d and %d", x.time, y.time))
	}
	if x.target != y.target {
		what = append(what, fmt.Sprintf("it points to %q and %q", x.target, y.target))
	}
	if x.xattrs != y.xattrs {
		what = append(what, fmt.Sprintf("extended attributes %s and %s", cmp.Or(x.xattrs, "none"), cmp.Or(y.xattrs, "none")))
	}
	return strings.Join(what, ", ")
}
