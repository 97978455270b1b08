package linuxkit

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/image/document"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Cache is LinuxKit's directory of images: an OCI layout whose index has a descriptor with a full name for every image, and
// a file .lock that is locked with fcntl while the index changes.
type Cache struct {
	Dir string
	// Limits bound what one pull or import may bring: Bytes is for all blobs together. The zero value means the default.
	Limits image.Limits
}

const (
	annotationName      = "org.opencontainers.image.ref.name"
	annotationImageName = "io.containerd.image.name"
	layoutFile          = `{"imageLayoutVersion": "1.0.0"}` + "\n"
)

// Open opens an image of the cache. One that is not there, or not whole, is an error that wraps [fs.ErrNotExist].
func (c Cache) Open(ctx context.Context, ref string, o image.Options) (*image.Image, error) {
	if c.Dir == "" {
		return nil, errNoDir
	}
	return image.OpenLayout(ctx, c.Dir, image.Expand(ref), o)
}

// errNoDir keeps an empty name from being the current directory's.
var errNoDir = errors.New("no cache: neither --cache, LINUXKIT_CACHE nor HOME says where")

// Images are the names in the cache, with what they stand for.
func (c Cache) Images() (map[string]v1.Descriptor, error) {
	index, err := c.index()
	if err != nil {
		return nil, err
	}
	all := map[string]v1.Descriptor{}
	for _, d := range index.Manifests {
		if name := d.Annotations[annotationName]; name != "" {
			all[name] = d
		}
	}
	return all, nil
}

func (c Cache) index() (*v1.IndexManifest, error) {
	if c.Dir == "" {
		return nil, errNoDir
	}
	index := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	raw, err := readDocument(filepath.Join(c.Dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = document.Decode(raw, index)
	}
	if err != nil {
		return nil, fmt.Errorf("cache %s: index.json: %w", c.Dir, err)
	}
	return index, nil
}

func readDocument(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return document.ReadAll(f)
}

// change makes the cache if it is not there, locks it, lets f change the index and writes that back.
func (c Cache) change(f func(*v1.IndexManifest) error) error {
	if c.Dir == "" {
		return errNoDir
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.Dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // and with it the lock
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	index, err := c.index()
	if err != nil {
		return err
	}
	if err := f(index); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if len(raw) > document.Max {
		return fmt.Errorf("cache %s: index.json would have %d bytes, at most %d are read: remove images first", c.Dir, len(raw), document.Max)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "oci-layout")); errors.Is(err, fs.ErrNotExist) {
		if err := writeFile(filepath.Join(c.Dir, "oci-layout"), []byte(layoutFile)); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(c.Dir, "index.json"), raw)
}

// writeFile writes a small file that others read meanwhile.
func writeFile(name string, content []byte) error {
	return atomicfile.Write(name, func(f *os.File) error {
		_, err := f.Write(content)
		return errors.Join(err, f.Chmod(0o644))
	})
}

// set gives a descriptor a name, in the place of what had it.
func set(index *v1.IndexManifest, name string, d v1.Descriptor) {
	unset(index, name)
	annotations := map[string]string{annotationName: name}
	for k, v := range d.Annotations {
		if k != annotationName && k != annotationImageName {
			annotations[k] = v
		}
	}
	d.Annotations = annotations
	index.Manifests = append(index.Manifests, d)
}

func unset(index *v1.IndexManifest, name string) (found bool) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		is := d.Annotations[annotationName] == name
		found = found || is
		return is
	})
	return found
}

func (c Cache) blob(h v1.Hash) string { return filepath.Join(c.Dir, "blobs", h.Algorithm, h.Hex) }

// holds says whether a blob is there, with the bytes that it should have.
func (c Cache) holds(d v1.Descriptor) bool {
	f, err := os.Open(c.blob(d.Digest))
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != d.Size {
		return false
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == d.Digest.Hex
}

// room is how many bytes a pull or an import may still bring.
type room struct {
	limit int64
	left  atomic.Int64
}

func (c Cache) room() *room {
	r := &room{limit: cmp.Or(c.Limits.Bytes, image.DefaultLimits.Bytes)}
	r.left.Store(r.limit)
	return r
}

func (r *room) take(n int64) error {
	if n < 0 {
		return fmt.Errorf("a size of %d bytes", n)
	}
	if r.left.Add(-n) < 0 {
		return &image.LimitError{What: "bytes for the cache", Limit: r.limit, Field: "Bytes"}
	}
	return nil
}

// put keeps a blob under its digest, unless it is there. One that was damaged is replaced. Nothing is written of one that there is
// no room for.
func (c Cache) put(d v1.Descriptor, room *room, open func() (io.ReadCloser, error)) error {
	if c.Dir == "" {
		return errNoDir
	}
	if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 2*sha256.Size {
		return fmt.Errorf("the digest %q is not a SHA-256", d.Digest)
	}
	if c.holds(d) {
		return nil
	}
	if err := room.take(d.Size); err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if err := os.MkdirAll(filepath.Dir(c.blob(d.Digest)), 0o755); err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := atomicfile.New(c.blob(d.Digest))
	if err != nil {
		return err
	}
	defer f.Discard()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f.File, h), io.LimitReader(r, d.Size+1))
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if found := hex.EncodeToString(h.Sum(nil)); n != d.Size || found != d.Digest.Hex {
		return fmt.Errorf("blob %s: %d bytes with the digest sha256:%s, expected %d: it was damaged or changed on the way", d.Digest, n, found, d.Size)
	}
	return publish(f)
}

// Pull fetches an image from its registry. With arch ("amd64") that architecture alone is fetched of an image that has
// several, otherwise all are, and each gets the name with its architecture behind it too, as LinuxKit does.
func (c Cache) Pull(ctx context.Context, ref, arch string) error {
	full := image.Expand(ref)
	if mirror := os.Getenv("LINUXKIT_MIRROR"); mirror != "" {
		return fmt.Errorf("pull %s: LINUXKIT_MIRROR is %s, and this linuxkit knows no mirrors: unset it, or name the image there", ref, mirror)
	}
	err := c.pull(ctx, full, arch)
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	return nil
}

func (c Cache) pull(ctx context.Context, full, arch string) error {
	r, err := name.ParseReference(full)
	if err != nil {
		return err
	}
	opts := []remote.Option{remote.WithAuthFromKeychain(image.Keychain()), remote.WithContext(ctx), remote.WithUserAgent("neb-linuxkit"),
		remote.WithTransport(document.Transport{Base: remote.DefaultTransport})}
	root, err := remote.Get(r, opts...)
	if err != nil {
		return err
	}
	from := source{
		manifest: func(d v1.Descriptor) ([]byte, error) {
			m, err := remote.Get(r.Context().Digest(d.Digest.String()), opts...)
			if err != nil {
				return nil, err
			}
			return m.Manifest, nil
		},
		blob: func(d v1.Descriptor) (io.ReadCloser, error) {
			l, err := remote.Layer(r.Context().Digest(d.Digest.String()), opts...)
			if err != nil {
				return nil, err
			}
			return l.Compressed()
		},
	}
	children, err := c.fetch(ctx, from, c.room(), root.Descriptor, root.Manifest, arch, 0)
	if err != nil {
		return err
	}
	return c.change(func(index *v1.IndexManifest) error {
		set(index, full, root.Descriptor)
		for _, d := range children {
			if arch == "" && d.Platform != nil && d.Platform.OS == "linux" {
				set(index, full+"-"+d.Platform.Architecture, d)
			}
		}
		return nil
	})
}

// source is where blobs come from.
type source struct {
	manifest func(v1.Descriptor) ([]byte, error)
	blob     func(v1.Descriptor) (io.ReadCloser, error)
}

// listing is what a manifest or an index leads to. An index has manifests, a manifest the rest.
type listing struct {
	Manifests []v1.Descriptor `json:"manifests"`
	Config    v1.Descriptor   `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
}

// fetch keeps a manifest and all that it leads to, and returns what an index lists.
func (c Cache) fetch(ctx context.Context, from source, room *room, d v1.Descriptor, raw []byte, arch string, depth int) ([]v1.Descriptor, error) {
	if depth > 3 {
		return nil, errors.New("indexes inside indexes, four deep")
	}
	var m listing
	if err := document.Decode(raw, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if m.Manifests != nil {
		for _, child := range m.Manifests {
			if arch != "" && child.Platform != nil && (child.Platform.OS != "linux" || child.Platform.Architecture != arch) {
				continue
			}
			raw, err := from.manifest(child)
			if err == nil {
				_, err = c.fetch(ctx, from, room, child, raw, arch, depth+1)
			}
			if err != nil {
				return nil, err
			}
		}
	} else {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for _, blob := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return c.put(blob, room, func() (io.ReadCloser, error) { return from.blob(blob) })
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
	}
	// The manifest comes last: what it lists is there when it is.
	d.Size = int64(len(raw))
	return m.Manifests, c.put(d, room, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(raw))), nil })
}

// Import takes over the images of an OCI layout in a tar stream, and returns their names, and the digests of those that
// have none, of which nothing is kept.
func (c Cache) Import(ctx context.Context, r io.Reader) (names, unnamed []string, err error) {
	// Blobs are kept as they come; the index, which names what is to stay, may be anywhere.
	var brought []string
	defer func() {
		if index, failed := c.index(); failed == nil {
			keep := c.led(index)
			for _, hex := range brought {
				if !keep[hex] {
					os.Remove(c.blob(v1.Hash{Algorithm: "sha256", Hex: hex}))
				}
			}
		}
	}()
	var index v1.IndexManifest
	found, room := false, c.room()
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		clean := path.Clean(h.Name)
		dir, base := path.Split(clean)
		switch {
		case h.Typeflag != tar.TypeReg:
		case clean == "index.json":
			raw, err := document.ReadAll(in)
			if err == nil {
				err = document.Decode(raw, &index)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("index.json: %w", err)
			}
			found = true
		case dir == "blobs/sha256/":
			d := v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: base}, Size: h.Size}
			if _, err := os.Stat(c.blob(d.Digest)); errors.Is(err, fs.ErrNotExist) {
				brought = append(brought, base)
			}
			if err := c.put(d, room, func() (io.ReadCloser, error) { return io.NopCloser(in), nil }); err != nil {
				return nil, nil, err
			}
		}
	}
	if !found {
		return nil, nil, errors.New("it is no OCI layout: there is no index.json in it (an archive that docker save wrote before engine 25 can be named in the YAML as docker-archive:FILE)")
	}
	err = c.change(func(mine *v1.IndexManifest) error {
		for _, d := range index.Manifests {
			name := d.Annotations[annotationImageName]
			if name == "" {
				name = d.Annotations[annotationName]
			}
			if name == "" {
				unnamed = append(unnamed, d.Digest.String())
				continue
			}
			if _, err := os.Stat(c.blob(d.Digest)); err != nil {
				return fmt.Errorf("%s: its manifest %s is not in the archive", name, d.Digest)
			}
			name = image.Expand(name)
			set(mine, name, d)
			names = append(names, name)
		}
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("its index.json gives no image a name (annotation %s or %s)", annotationImageName, annotationName)
	}
	return names, unnamed, err
}

// Remove takes images out of the cache, the names of their architectures that [Cache.Pull] made, and the blobs that no other
// image has.
func (c Cache) Remove(names ...string) error {
	return c.change(func(index *v1.IndexManifest) error {
		for _, name := range names {
			all := append(c.architectures(index, name), c.architectures(index, image.Expand(name))...)
			if !unset(index, name) && !unset(index, image.Expand(name)) {
				return fmt.Errorf("%s is not in the cache", name)
			}
			for _, name := range all {
				unset(index, name)
			}
		}
		return c.sweep(index)
	})
}

// architectures are the names that an image for several has for each: they end in it, and stand for what its index lists.
func (c Cache) architectures(index *v1.IndexManifest, name string) (names []string) {
	for _, d := range index.Manifests {
		if d.Annotations[annotationName] != name {
			continue
		}
		raw, err := readDocument(c.blob(d.Digest))
		var m listing
		if err != nil || document.Decode(raw, &m) != nil {
			continue // not whole: nothing says what it had
		}
		for _, child := range m.Manifests {
			if child.Platform == nil {
				continue
			}
			of := name + "-" + child.Platform.Architecture
			if slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool {
				return d.Annotations[annotationName] == of && d.Digest == child.Digest
			}) {
				names = append(names, of)
			}
		}
	}
	return names
}

// sweep removes the blobs that the index does not lead to.
func (c Cache) sweep(index *v1.IndexManifest) error {
	keep := c.led(index)
	dir := filepath.Join(c.Dir, "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// led are the digests, in hexadecimal, of the blobs that the index leads to.
func (c Cache) led(index *v1.IndexManifest) map[string]bool {
	keep := map[string]bool{}
	var mark func(d v1.Descriptor, depth int)
	mark = func(d v1.Descriptor, depth int) {
		if keep[d.Digest.Hex] || depth > 4 {
			return
		}
		keep[d.Digest.Hex] = true
		raw, err := readDocument(c.blob(d.Digest))
		var m listing
		if err != nil || document.Decode(raw, &m) != nil {
			return // not fetched, or no manifest
		}
		for _, child := range m.Manifests {
			mark(child, depth+1)
		}
		for _, blob := range append(m.Layers, m.Config) {
			keep[blob.Digest.Hex] = true
		}
	}
	for _, d := range index.Manifests {
		mark(d, 0)
	}
	return keep
}

// Clean removes the cache. A directory that is none is left alone.
func (c Cache) Clean() error {
	if c.Dir == "" {
		return errNoDir
	}
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{"blobs", "index.json", "oci-layout", ".lock", "ingest"}, e.Name()) {
			return fmt.Errorf("%s is not removed: %s in it belongs to no image cache", c.Dir, e.Name())
		}
	}
	return os.RemoveAll(c.Dir)
}

// ExportFormats are the forms in which [Cache.Export] writes an image.
var ExportFormats = []string{"oci", "docker", "filesystem"}

// Export writes one image of the cache as an OCI layout, an archive that docker load takes, or the tar archive of its
// merged tree. tag is the name that it gets in there, "" for its own.
//
// When the context is done Export returns soon, even if w blocks.
func (c Cache) Export(ctx context.Context, w io.Writer, ref, format, tag string, o image.Options) error {
	return stream(ctx, w, func(w io.Writer) error { return c.export(ctx, w, ref, format, tag, o) })
}

func (c Cache) export(ctx context.Context, w io.Writer, ref, format, tag string, o image.Options) error {
	if !slices.Contains(ExportFormats, format) {
		return fmt.Errorf("format %q: expected %s", format, strings.Join(ExportFormats, ", "))
	}
	img, err := c.Open(ctx, ref, o)
	if err != nil {
		return err
	}
	defer img.Close()
	if format == "filesystem" {
		t := image.NewTree(o.TempDir, o.Limits)
		defer t.Close()
		if err := t.AddImage(ctx, img, ""); err != nil {
			return err
		}
		return t.WriteTar(w, 1<<62)
	}
	if tag == "" {
		tag = ref
	}
	tag = image.Expand(tag)
	hash, err := v1.NewHash(img.ManifestDigest())
	if err != nil {
		return err
	}
	raw, err := readDocument(c.blob(hash))
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := document.Decode(raw, &m); err != nil {
		return err
	}
	out := tar.NewWriter(w)
	put := func(name string, content []byte) error {
		err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = out.Write(content)
		}
		return err
	}
	copyBlob := func(name string, d v1.Descriptor) error {
		f, err := os.Open(c.blob(d.Digest))
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(out, h), f); err != nil {
			return err
		}
		if found := hex.EncodeToString(h.Sum(nil)); found != d.Digest.Hex {
			return fmt.Errorf("blob %s has the digest sha256:%s: it was damaged; remove the image from the cache and pull it again", d.Digest, found)
		}
		return nil
	}
	written := map[v1.Hash]bool{}
	switch format {
	case "oci":
		index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
			MediaType: m.MediaType, Size: int64(len(raw)), Digest: hash, Platform: &v1.Platform{OS: "linux", Architecture: img.Config().Architecture},
			Annotations: map[string]string{annotationName: tag, annotationImageName: tag},
		}}})
		if err != nil {
			return err
		}
		if err := put("oci-layout", []byte(layoutFile)); err != nil {
			return err
		}
		for _, d := range append(m.Layers, m.Config, v1.Descriptor{Digest: hash}) {
			if written[d.Digest] {
				continue
			}
			written[d.Digest] = true
			if err := copyBlob("blobs/sha256/"+d.Digest.Hex, d); err != nil {
				return err
			}
		}
		if err := put("index.json", index); err != nil {
			return err
		}
	case "docker":
		var layers []string
		for _, d := range m.Layers {
			name := d.Digest.Hex + ".tar.gz" // docker load looks at the content
			layers = append(layers, name)
			if written[d.Digest] {
				continue
			}
			written[d.Digest] = true
			if err := copyBlob(name, d); err != nil {
				return err
			}
		}
		config := m.Config.Digest.Hex + ".json"
		if err := copyBlob(config, m.Config); err != nil {
			return err
		}
		manifest, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{tag}, "Layers": layers}})
		if err != nil {
			return err
		}
		if err := put("manifest.json", manifest); err != nil {
			return err
		}
	}
	return out.Close()
}

// ExportFile is [Cache.Export] to a file, which appears when it is complete.
func (c Cache) ExportFile(ctx context.Context, file, ref, format, tag string, o image.Options) error {
	f, err := atomicfile.New(file)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := c.export(ctx, stoppable{ctx, f.File}, ref, format, tag, o); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return publish(f)
}
