package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// AddRoot puts a root file system at prefix: a directory of this machine, or a tar archive (compressed with
// gzip, zstd, xz or not at all), which may be a pipe. Both give the same tree: names have no meaning as in
// layers, and extended attributes that belong to this machine (SELinux labels, access control lists) are left
// out. AddRoot returns their names, each with the number of files that had it.
//
// Files of the calling user in a directory, or of his group, belong to root in the tree, so that it does not
// depend on who created the directory. They are read when the tree is written; a file that has changed by
// then is an error. On other systems than Linux all files of a directory belong to root, hard links are files
// of their own, and there are no extended attributes.
func (t *Tree) AddRoot(ctx context.Context, name, prefix string) (map[string]int, error) {
	labels := hostLabels{}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return labels, t.addDir(ctx, name, prefix, labels)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	t.CloseLater(f)
	l := layer{file: f, open: section(f, 0, info.Size())}
	in := io.Reader(f)
	if !info.Mode().IsRegular() {
		buffered := bufio.NewReader(f)
		_, err = buffered.Peek(1)
		in = buffered
		l = layer{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(in), nil }}
	} else if info.Size() == 0 {
		err = io.EOF
	}
	if err == io.EOF { // a program that failed to write the archive leaves an empty one
		err = errors.New("found an empty file, expected a tar archive")
	}
	if err == nil {
		err = t.addLayers(ctx, []layer{l}, prefix, labels)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return labels, nil
}

// hostLabels counts the files with extended attributes that were left out, by the attributes' names.
type hostLabels map[string]int

// filter returns the extended attributes that mean the same on every machine: file capabilities, and those
// that belong to programs.
func (h hostLabels) filter(all []Xattr) (kept []Xattr) {
	for _, x := range all {
		if x.Name == "security.capability" || strings.HasPrefix(x.Name, "user.") {
			kept = append(kept, x)
		} else {
			h[x.Name]++
		}
	}
	return kept
}

// fileID identifies a file of this machine, to find its hard links.
type fileID struct{ dev, ino uint64 }

func (t *Tree) addDir(ctx context.Context, name, prefix string, labels hostLabels) error {
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
	add := func(path, rel string, d fs.DirEntry) error {
		info, err := d.Info()
		if err != nil {
			return err
		}
		e, id, links, err := entryOf(path, info)
		if err != nil {
			return err
		}
		e.Path, e.Xattrs = rel, labels.filter(e.Xattrs)
		if links > 1 && !e.IsDir() {
			if first, ok := linked[id]; ok {
				return m.link(rel, first)
			}
			linked[id] = rel
		}
		if e.Mode&initramfs.TypeMask == initramfs.TypeSymlink {
			if e.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if e.IsRegular() && info.Size() > 0 {
			at, err := t.names.put(rel)
			if err != nil {
				return err
			}
			e.Size, e.body = info.Size(), body{file: place.file, at: int64(at)}
		}
		return m.put(e)
	}
	// WalkDir does not follow a link at its root, OpenRoot does: without the dot the tree would be empty.
	err = filepath.WalkDir(name+"/.", func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(name, path)
		if err == nil && rel != "." {
			err = add(path, filepath.ToSlash(rel), d)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.graft(top, prefix)
}
