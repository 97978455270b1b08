package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// files is an OCI layout or an archive of docker save: named files, in a directory or in a tar file.
type files interface {
	// find returns the file that holds name, and its place there. The error for a missing one wraps
	// fs.ErrNotExist.
	find(name string) (f *os.File, at, size int64, err error)
	io.Closer
}

// openFileOrDir opens PATH, PATH:NAME, PATH@DIGEST or PATH:NAME@DIGEST. Path and name may contain slashes,
// colons and @: the shortest path that exists counts.
func openFileOrDir(ctx context.Context, rest string, o Options) (*Image, error) {
	name, want := splitPlace(rest)
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	var in files = &dirFiles{dir: name}
	if !info.IsDir() {
		if in, err = openArchive(ctx, name, o); err != nil {
			return nil, err
		}
	}
	return fromFiles(ctx, in, want, o)
}

// splitPlace separates the path of a file or directory from the name of an image in it, which may be empty.
func splitPlace(rest string) (path, name string) {
	if _, err := os.Stat(rest); errors.Is(err, fs.ErrNotExist) {
		for i := range len(rest) {
			if rest[i] != ':' && rest[i] != '@' {
				continue
			}
			if _, err := os.Stat(rest[:i]); err == nil {
				return rest[:i], rest[i+1:]
			}
		}
	}
	return rest, ""
}

// fromFiles opens the image called want, or the only one if want is empty. The image closes the files; they
// are closed after an error too.
func fromFiles(ctx context.Context, in files, want string, o Options) (*Image, error) {
	img, err := find(ctx, in, want, o)
	if err != nil {
		in.Close()
		return nil, err
	}
	img.closers = append(img.closers, in)
	return img, nil
}

func find(ctx context.Context, in files, want string, o Options) (*Image, error) {
	index, err := readPiece(in, "index.json")
	if errors.Is(err, os.ErrNotExist) {
		return fromDockerSave(in, want, o)
	}
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var m v1.IndexManifest
	if err := decode(index, &m); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var fit []v1.Descriptor
	var names []string
	for _, d := range m.Manifests {
		_, digest, _ := strings.Cut(want, "@")
		if want == "" || d.Digest.String() == want || d.Digest.String() == digest || isNamed(d, want) {
			fit = append(fit, d)
		}
		names = append(names, nameOf(d))
	}
	switch {
	case len(fit) == 0 && want == "":
		return nil, errors.New("index.json has no image")
	case len(fit) == 0:
		return nil, fmt.Errorf("no image %s: found %s: %w", want, strings.Join(names, ", "), fs.ErrNotExist)
	}
	d := fit[0]
	if len(fit) > 1 {
		if d, err = choose(ctx, layoutBlobs{in}, fit, o.Arch); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
	}
	return fromManifest(ctx, layoutBlobs{in}, d, o)
}

const (
	annotationName      = "org.opencontainers.image.ref.name"
	annotationImageName = "io.containerd.image.name"
)

func nameOf(d v1.Descriptor) string {
	for _, key := range []string{annotationImageName, annotationName} {
		if name := d.Annotations[key]; name != "" {
			return name
		}
	}
	return d.Digest.String()
}

// isNamed reports whether an image has a name. Tools write a tag alone, or a reference with or without the
// default host.
func isNamed(d v1.Descriptor, want string) bool {
	for _, key := range []string{annotationImageName, annotationName} {
		if name := d.Annotations[key]; name != "" && sameImage(name, want) {
			return true
		}
	}
	return false
}

// layoutBlobs is the blobs directory of an OCI layout.
type layoutBlobs struct{ files }

func blobName(d v1.Descriptor) (string, error) {
	if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 2*sha256.Size {
		return "", fmt.Errorf("invalid digest %q: expected a SHA-256", d.Digest)
	}
	return "blobs/sha256/" + d.Digest.Hex, nil
}

func (l layoutBlobs) read(_ context.Context, d v1.Descriptor) ([]byte, error) {
	name, err := blobName(d)
	if err != nil {
		return nil, err
	}
	b, err := readPiece(l.files, name)
	if err != nil {
		return nil, err
	}
	return b, check(b, d)
}

func (l layoutBlobs) layer(d v1.Descriptor) (layer, error) {
	name, err := blobName(d)
	if err != nil {
		return layer{}, err
	}
	return pieceLayer(l.files, name)
}

func readPiece(fs files, name string) ([]byte, error) {
	f, at, size, err := fs.find(name)
	if err != nil {
		return nil, err
	}
	return readDocument(io.NewSectionReader(f, at, size))
}

func pieceLayer(fs files, name string) (layer, error) {
	f, at, size, err := fs.find(name)
	if err != nil {
		return layer{}, err
	}
	return layer{file: f, at: at, open: section(f, at, size)}, nil
}

func section(f *os.File, at, size int64) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(f, at, size)), nil
	}
}

// fromDockerSave reads archives of Docker engines before 25, which are not OCI layouts.
func fromDockerSave(in files, want string, o Options) (*Image, error) {
	raw, err := readPiece(in, "manifest.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("found neither index.json nor manifest.json: "+
			"expected an OCI layout or an archive of docker save (%w)", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	type saved struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var all []saved
	if err := decode(raw, &all); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.RepoTags...)
	}
	at := slices.IndexFunc(all, func(m saved) bool {
		named := slices.ContainsFunc(m.RepoTags, func(tag string) bool { return sameImage(tag, want) })
		return named || want == "" && len(all) == 1 ||
			configID(m.Config) == strings.TrimPrefix(want, "sha256:")
	})
	if at < 0 {
		return nil, fmt.Errorf("found %d images, none of them %q: %s",
			len(all), want, strings.Join(names, ", "))
	}
	m := all[at]
	if raw, err = readPiece(in, m.Config); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", m.Config, err)
	}
	img := &Image{}
	if err := img.setConfig(raw, o.Arch); err != nil {
		return nil, err
	}
	if id := configID(m.Config); len(id) == 2*sha256.Size && "sha256:"+id != img.ConfigDigest() {
		return nil, fmt.Errorf(
			"configuration %s: digest is %s: the archive was damaged or changed on the way",
			m.Config, img.ConfigDigest())
	}
	if len(m.Layers) != len(img.config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest.json: found %d layers, expected %d as in the configuration",
			len(m.Layers), len(img.config.RootFS.DiffIDs))
	}
	for i, name := range m.Layers {
		l, err := pieceLayer(in, name)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %d (%s): %w", i+1, len(m.Layers), name, err)
		}
		l.diffID = img.config.RootFS.DiffIDs[i].String()
		img.layers = append(img.layers, l)
	}
	return img, nil
}

// configID returns the digest in the name of a configuration, if it has one.
func configID(name string) string { return strings.TrimSuffix(path.Base(name), ".json") }

// dirFiles is a layout in a directory.
type dirFiles struct {
	dir  string
	open []*os.File
}

func (d *dirFiles) find(name string) (*os.File, int64, int64, error) {
	if !filepath.IsLocal(name) {
		return nil, 0, 0, fmt.Errorf("invalid name %q: leads out of the directory", name)
	}
	f, err := os.Open(filepath.Join(d.dir, name))
	if err != nil {
		return nil, 0, 0, err
	}
	d.open = append(d.open, f)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		return nil, 0, 0, err
	}
	return f, 0, info.Size(), nil
}

func (d *dirFiles) Close() error {
	var errs []error
	for _, f := range d.open {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// tarFiles is a layout in a tar file.
type tarFiles struct {
	f      *os.File
	pieces map[string]piece
}

type piece struct {
	at, size int64
	link     string // the file is that of this name: docker save stores a layer that comes twice once
}

// Bounds of a layout in a tar file: the number of its files, and the length of their names in bytes. Docker's
// limit is 127 layers, each of which takes one to three files with names of 71 bytes.
const (
	maxPieces    = 100_000
	maxPieceName = 1024
)

// openArchive opens an archive, which it decompresses to disk first if need be.
func openArchive(ctx context.Context, name string, o Options) (*tarFiles, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(f, 64<<10)
	r, done, err := decompress(ctx, in, newWindowRoom(o.Limits.orDefault()))
	if err != nil {
		f.Close()
		return nil, err
	}
	defer done()
	if r != nil {
		defer f.Close()
		return spoolArchive(stream.Reader(ctx, r), o)
	}
	t, err := indexTar(f)
	if err != nil {
		f.Close()
	}
	return t, err
}

// spoolArchive writes an archive that comes as a stream to disk.
func spoolArchive(r io.Reader, o Options) (*tarFiles, error) {
	f, err := nameless(o.TempDir)
	if err != nil {
		return nil, err
	}
	limit := o.Limits.orDefault().Bytes
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, limit+1), make([]byte, 256<<10))
	if err == nil && n > limit {
		err = &LimitError{What: "bytes in the archive", Limit: limit, Field: "Bytes"}
	}
	var t *tarFiles
	if err == nil {
		t, err = indexTar(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func indexTar(f *os.File) (*tarFiles, error) {
	t := &tarFiles{f: f, pieces: map[string]piece{}}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for r := newTarFile(f, 0, info.Size()); ; {
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("after %d files, at byte %d: %w", len(t.pieces), r.offset(), err)
		}
		if len(h.Name) > maxPieceName || len(h.Linkname) > maxPieceName {
			return nil, fmt.Errorf("%.40q…: name or link is longer than %d bytes", h.Name, maxPieceName)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if isSparse(h) {
				return nil, fmt.Errorf("%s is a sparse file, which is not supported", h.Name)
			}
			t.pieces[name] = piece{at: r.offset(), size: h.Size}
		case tar.TypeSymlink:
			t.pieces[name] = piece{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			t.pieces[name] = piece{link: path.Clean(h.Linkname)}
		}
		if len(t.pieces) > maxPieces {
			return nil, &LimitError{What: "files in the archive", Limit: maxPieces}
		}
	}
}

func (t *tarFiles) find(name string) (*os.File, int64, int64, error) {
	at := path.Clean(name)
	for range maxHops {
		p, ok := t.pieces[at]
		if !ok {
			break
		}
		if p.link == "" {
			return t.f, p.at, p.size, nil
		}
		at = p.link
	}
	return nil, 0, 0, fmt.Errorf("the archive has no %s: %w", name, fs.ErrNotExist)
}

func (t *tarFiles) Close() error { return t.f.Close() }
