package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// fileID identifies a file of this machine, to find its hard links.
type fileID struct{ dev, ino uint64 }

// AddDir puts the tree below a directory of this machine at prefix, with its owners, modes, times, hard links
// and extended attributes. Files of the calling user, or of his group, belong to root in the tree, so that it
// does not depend on who created the directory. Files are read when the tree is written; a file that has
// changed by then is an error.
//
// On other systems than Linux all files belong to root, hard links are files of their own, and there are no
// extended attributes.
func (t *Tree) AddDir(ctx context.Context, name, prefix string) error {
	root, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	t.CloseLater(root)
	place, err := t.from(bodies{root: root})
	if err != nil {
		return err
	}
	t.layers++
	top := t.newRoot()
	m := merge{t: t, root: top, layer: uint16(t.layers)}
	linked := map[fileID]string{}
	// WalkDir does not follow a link at its root, OpenRoot does: without the dot the tree would be empty.
	err = filepath.WalkDir(name+"/.", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(name, path)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		e, id, links, err := entryOf(path, info)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		e.Path = rel
		if e.Mode&initramfs.TypeMask == initramfs.TypeSymlink {
			if e.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if links > 1 && !e.IsDir() {
			if first, ok := linked[id]; ok {
				if done, err := m.link(rel, first); done || err != nil {
					return err
				}
				return fmt.Errorf("%s: hard link to %s, which is not in the tree", path, first)
			}
			linked[id] = rel
		}
		if e.IsRegular() && info.Size() > 0 {
			at, err := t.names.put(rel)
			if err != nil {
				return err
			}
			e.Size, e.body = info.Size(), body{file: place.file, at: int64(at)}
		}
		if err := m.put(e); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.graft(top, prefix)
}
