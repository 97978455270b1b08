package image

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// AddImage merges the layers of an image and puts the result at prefix ("" is the root), over what is there:
// files replace files, directories join, also through symbolic links. What is not a directory does not
// replace a directory that has content: that is an error. Whiteouts hide entries of the image's own lower
// layers only.
func (t *Tree) AddImage(ctx context.Context, img *Image, prefix string) error {
	if err := t.addLayers(ctx, img.layers, prefix, nil); err != nil {
		return fmt.Errorf("image %s: %w", img.ref, err)
	}
	return nil
}

// atOnce is the largest number of layers that are read at a time, whatever the number of processors: each
// needs memory, a zstd layer for its window.
const atOnce = 4

// addLayers merges layers. If labels is not nil they are a root file system, see [Tree.AddRoot].
func (t *Tree) addLayers(ctx context.Context, layers []layer, prefix string, labels hostLabels) error {
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
				if err := a.merge(ctx, t, root, labels); err != nil {
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

// AddTarReader merges the tar archive of a layer, compressed with gzip, zstd, xz or not at all.
func (t *Tree) AddTarReader(ctx context.Context, r io.Reader, prefix string) error {
	l := layer{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }}
	return t.addLayers(ctx, []layer{l}, prefix, nil)
}

// WriteTar writes the tree as a tar archive, in the order of [Tree.Walk] (PAX if a name, number or attribute
// needs it), with extended attributes. Times after epoch, in seconds since 1970, become epoch; nil keeps all.
func (t *Tree) WriteTar(w io.Writer, epoch *int64) error {
	out := tar.NewWriter(w)
	names := map[uint32]string{}
	err := t.Walk(func(e *Entry) error {
		if epoch != nil {
			e.ModTime = min(e.ModTime, *epoch)
		}
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
