package image

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// AddImage merges the layers of an image and puts the result at prefix ("" is the root), over what is there:
// files replace files, directories join. Whiteouts hide entries of the image's own lower layers only.
func (t *Tree) AddImage(ctx context.Context, img *Image, prefix string) error {
	if err := t.addLayers(ctx, img.layers, prefix); err != nil {
		return fmt.Errorf("image %s: %w", img.ref, err)
	}
	return nil
}

// atOnce is the largest number of layers that are read at a time, whatever the number of processors: each
// needs memory, a zstd layer for its window.
const atOnce = 4

func (t *Tree) addLayers(ctx context.Context, layers []layer, prefix string) error {
	if t.layers+len(layers)+1 > maxLayers {
		return &LimitError{What: "layers", Limit: maxLayers}
	}
	root := t.newRoot()
	// Layers are read in any order, and merged in theirs by one more goroutine.
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(runtime.GOMAXPROCS(0)+1, atOnce) + 1)
	archives := make([]chan *archive, len(layers))
	for i := range archives {
		archives[i] = make(chan *archive, 1)
	}
	group.Go(func() error {
		for i := range layers {
			select {
			case a := <-archives[i]:
				t.layers++
				if err := a.merge(ctx, t, root); err != nil {
					return layers[i].fail(i, len(layers), err)
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range layers {
		group.Go(func() error {
			a, err := layers[i].read(ctx, t)
			if err != nil {
				return layers[i].fail(i, len(layers), err)
			}
			archives[i] <- a
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return t.graft(root, prefix)
}

func (l *layer) fail(i, n int, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	name := cmp.Or(l.digest, l.diffID)
	if name == "" {
		return err // not an image's: the caller adds its name
	}
	return fmt.Errorf("layer %d of %d (%s): %w", i+1, n, name, err)
}

// AddTar puts the tree of a tar archive (compressed with gzip, zstd or not at all) at prefix. The archive may
// be a pipe. An empty file is an error: a program that failed to write the archive leaves one.
func (t *Tree) AddTar(ctx context.Context, name, prefix string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	t.CloseLater(f)
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

var errNothing = errors.New("found an empty file, expected a tar archive")

// AddTarReader is [Tree.AddTar] for an archive that is read from r.
func (t *Tree) AddTarReader(ctx context.Context, r io.Reader, prefix string) error {
	l := layer{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }}
	return t.addLayers(ctx, []layer{l}, prefix)
}

// WriteTar writes the tree as a tar archive, in the order of [Tree.Walk] (PAX if a name, number or attribute
// needs it), with extended attributes. Times after latest, in seconds since 1970, become latest.
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
