package image

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// AddImage merges the layers of an image and puts the result at prefix ("" is the root), over what is there: files replace
// files, directories join. Whiteouts reach no further than the image's own lower layers.
//
// Layers are inflated once each, some at a time.
func (t *Tree) AddImage(ctx context.Context, img *Image, prefix string) error {
	if err := t.addLayers(ctx, img.layers, prefix); err != nil {
		return fmt.Errorf("image %s: %w", img.ref, err)
	}
	return nil
}

// mostAtOnce is how many layers are read at one time: each takes two megabytes and a half for what is read ahead, and a zstd one its
// window, so that more processors must not mean more memory for ever.
const mostAtOnce = 4

func (t *Tree) addLayers(ctx context.Context, layers []layer, prefix string) error {
	if t.layers+len(layers)+1 > maxLayers {
		return &LimitError{What: "layers", Limit: maxLayers}
	}
	root := t.newRoot()

	// Layers are read in any order but merged in theirs. Only a few readings wait at a time, for their files are open.
	group, ctx := errgroup.WithContext(ctx)
	turn := make(chan struct{}, min(runtime.GOMAXPROCS(0)+2, mostAtOnce))
	done := make([]chan *reading, len(layers))
	for i := range done {
		done[i] = make(chan *reading, 1)
	}
	group.Go(func() error {
		for i := range layers {
			select {
			case turn <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				r, err := layers[i].read(ctx, t.dir, t.budget)
				if err != nil {
					return layers[i].fail(i, len(layers), err)
				}
				done[i] <- r
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		for i := range layers {
			select {
			case r := <-done[i]:
				t.layers++
				if err := t.replay(ctx, r, &layers[i], root); err != nil {
					return layers[i].fail(i, len(layers), err)
				}
				<-turn
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	err := group.Wait()
	for _, d := range done {
		select {
		case r := <-d: // nobody came for it
			r.Close()
		default:
		}
	}
	if err != nil {
		return err
	}
	t.layers++
	at, err := t.resolve(t.root, prefix, true, &merge{t: t, root: t.root, layer: uint16(t.layers)})
	if err != nil {
		return err
	}
	t.overlay(at, root)
	return nil
}

func (l *layer) fail(i, n int, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	name := cmp.Or(l.digest, l.diffID)
	if name == "" {
		return err // not of an image: the caller knows its name
	}
	return fmt.Errorf("layer %d of %d (%s): %w", i+1, n, name, err)
}

// replay merges what was read of a layer.
func (t *Tree) replay(ctx context.Context, r *reading, l *layer, root uint32) error {
	defer r.journal.Close()
	var places [3]body
	for _, p := range []struct {
		kind int
		file *os.File
	}{{inSpool, r.spool}, {inLayer, l.file}} {
		if p.file == nil {
			continue
		}
		var err error
		if places[p.kind], err = t.from(bodies{file: p.file}); err != nil {
			return err
		}
	}
	if r.spool != nil {
		t.closer = append(t.closer, r.spool)
	}
	m := merge{t: t, root: root, layer: uint16(t.layers)}
	var e Entry
	for {
		if err := ctx.Err(); err != nil {
			return err // a hostile layer can make each of its entries slow
		}
		link, err := r.journal.read(&e)
		if err == io.EOF {
			return m.finish()
		}
		if err != nil {
			return err
		}
		e.body.file = places[e.body.file].file
		if err := m.apply(&e, link); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
	}
}

// AddTar puts the tree of a tar archive (gzip, zstd or neither) at prefix. The archive may come through a pipe; one of no bytes is an error, as it is
// what a program leaves that failed to make it.
func (t *Tree) AddTar(ctx context.Context, name, prefix string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	t.closer = append(t.closer, f)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		in := bufio.NewReader(f)
		if _, err := in.Peek(1); err == io.EOF {
			return fmt.Errorf("%s: %w", name, errNothing)
		}
		if err := t.AddTarReader(ctx, in, prefix); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if info.Size() == 0 {
		return fmt.Errorf("%s: %w", name, errNothing)
	}
	l := layer{file: f, open: section(f, 0, info.Size())}
	if err := t.addLayers(ctx, []layer{l}, prefix); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

var errNothing = errors.New("expected a tar archive, found nothing")

// AddTarReader is what AddTar does with an archive that is read from r.
func (t *Tree) AddTarReader(ctx context.Context, r io.Reader, prefix string) error {
	l := layer{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }}
	return t.addLayers(ctx, []layer{l}, prefix)
}

// AddDir puts the tree below a directory of the machine at prefix, with owners, modes, times, hard links and extended
// attributes as they are there. What the calling user or his group owns is root's in the tree, so that it does not
// depend on who made the directory. Files are read when the tree is written; one that has changed by then is an error.
func (t *Tree) AddDir(ctx context.Context, name, prefix string) error {
	caller, callersGroup := uint32(os.Geteuid()), uint32(os.Getegid())
	root, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	t.closer = append(t.closer, root)
	place, err := t.from(bodies{root: root})
	if err != nil {
		return err
	}
	t.layers++
	top := t.newRoot()
	m := merge{t: t, root: top, layer: uint16(t.layers)}
	type key struct{ dev, ino uint64 }
	linked := map[key]string{}
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
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		e := &Entry{
			Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, ModTime: st.Mtim.Sec, Size: info.Size(),
			Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		}
		if e.UID == caller {
			e.UID = 0
		}
		if e.GID == callersGroup {
			e.GID = 0
		}
		if !e.IsRegular() {
			e.Size = 0
		}
		if e.Mode&typeMask == typeSymlink {
			if e.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if st.Nlink > 1 && !e.IsDir() {
			k := key{uint64(st.Dev), st.Ino}
			if first, ok := linked[k]; ok {
				if done, err := m.link(rel, first); done || err != nil {
					return err
				}
				return fmt.Errorf("%s: a hard link to %s, which is not in the tree", path, first)
			}
			linked[k] = rel
		}
		if e.Xattrs, err = xattrs(path); err != nil {
			return fmt.Errorf("%s: extended attributes: %w", path, err)
		}
		if e.Size > 0 {
			e.body = place
			at, err := t.names.put(rel)
			if err != nil {
				return err
			}
			e.body.at = int64(at)
		}
		if err := m.put(e); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.layers++
	at, err := t.resolve(t.root, prefix, true, &merge{t: t, root: t.root, layer: uint16(t.layers)})
	if err != nil {
		return err
	}
	t.overlay(at, top)
	return nil
}

func xattrs(path string) ([]Xattr, error) {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(path, list); err != nil {
		return nil, err
	}
	var xs []Xattr
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		xs = append(xs, Xattr{name, string(value[:n])})
	}
	return xs, nil
}

// WriteTar writes the tree as a tar archive (PAX where a name, number or attribute needs it). Extended attributes are
// kept; times after latest, in seconds since 1970, become latest.
func (t *Tree) WriteTar(w io.Writer, latest int64) error {
	out := tar.NewWriter(w)
	names := map[uint32]string{}
	err := t.Walk(func(e *Entry) error {
		e.ModTime = min(e.ModTime, latest)
		h, err := tarHeader(e, names)
		if err == nil {
			err = out.WriteHeader(h)
		}
		if err == nil && h.Typeflag == tar.TypeReg {
			_, err = t.CopyBody(out, e)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Close()
}
