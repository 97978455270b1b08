package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/app"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// erofsEntry is a name in an erofs root. Owners are not known: the tree is unpacked by whoever looks at it.
type erofsEntry struct {
	path string // from the root of the image
	mode fs.FileMode
	size int64
	// detail is what a symbolic link points to.
	detail string
	file   string // where the content is; "" for what is no file
}

// walkErofs calls use for each name in the erofs image that a ramdisk holds in parts. It does nothing when there is none.
func walkErofs(ctx context.Context, tools ErofsTools, f *eif.File, s eif.Section, use func(erofsEntry) error) (err error) {
	if found, err := hasErofs(f, s); err != nil || !found {
		return err
	}
	if tools == nil {
		return errors.New("its erofs root is read with fsck.erofs in the sandbox of 'neb build', which this machine does not have")
	}
	work, err := tools.Work(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeTree(work)) }()
	for _, sub := range []string{"src", "out"} {
		if err := os.MkdirAll(filepath.Join(work, sub), 0o777); err != nil {
			return err
		}
	}
	if err := joinParts(f, s, filepath.Join(work, "src", "root.erofs")); err != nil {
		return err
	}
	if err := tools.Run(ctx, work, "/usr/bin/fsck.erofs", "--extract=/out/root", "--preserve-perms", "--no-preserve-owner", "/src/root.erofs"); err != nil {
		return fmt.Errorf("fsck.erofs: %w", err)
	}
	top := filepath.Join(work, "out", "root")
	return filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil || name == top {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := erofsEntry{mode: info.Mode(), size: info.Size()}
		if e.path, err = filepath.Rel(top, name); err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			e.file = name
		case info.Mode()&fs.ModeSymlink != 0:
			e.size = 0
			if e.detail, err = os.Readlink(name); err != nil {
				return err
			}
		default:
			e.size = 0
		}
		return use(e)
	})
}

func isPart(name string) bool {
	return app.Belongs("/"+name, false) && strings.HasPrefix("/"+name, strings.TrimSuffix(app.RootPart(0), "0"))
}

func hasErofs(f *eif.File, s eif.Section) (found bool, err error) {
	err = walkRamdisk(f, s, func(h *initramfs.Header, _ *initramfs.Reader) error {
		found = found || isPart(h.Name)
		return nil
	})
	return found, err
}

// joinParts writes the parts of an erofs image, which stand in their order in the ramdisk, one after the other.
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
		if want := app.RootPart(next); "/"+h.Name != want {
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
func diffErofs(ctx context.Context, tools ErofsTools, a, b *eif.File, sa, sb eif.Section, d Difference, report func(Difference)) error {
	type seen struct {
		erofsEntry
		sum   [sha256.Size]byte
		again bool
	}
	read := func(e erofsEntry) (*seen, error) {
		s := &seen{erofsEntry: e}
		if e.file == "" {
			return s, nil
		}
		in, err := os.Open(e.file)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		h := sha256.New()
		_, err = io.Copy(h, in)
		h.Sum(s.sum[:0])
		return s, err
	}
	d.Section += ", erofs root"
	say := func(path, format string, args ...any) {
		d.Path, d.What = path, fmt.Sprintf(format, args...)
		report(d)
	}
	entries := map[string]*seen{}
	var names []string
	err := walkErofs(ctx, tools, a, sa, func(e erofsEntry) error {
		s, err := read(e)
		entries[e.path] = s
		names = append(names, e.path)
		return err
	})
	if err == nil {
		err = walkErofs(ctx, tools, b, sb, func(e erofsEntry) error {
			s, err := read(e)
			if err != nil {
				return err
			}
			old, ok := entries[e.path]
			if !ok {
				say(e.path, "only the second file has it")
				return nil
			}
			old.again = true
			switch {
			case old.mode != s.mode:
				say(e.path, "mode %v and %v", old.mode, s.mode)
			case old.size != s.size:
				say(e.path, "size %d and %d", old.size, s.size)
			case old.detail != s.detail:
				say(e.path, "it points to %q and %q", old.detail, s.detail)
			case old.sum != s.sum:
				say(e.path, "content")
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
