package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Image is a container image: what its configuration says, and layers that have not been read yet.
type Image struct {
	ref      string
	manifest string
	config   *v1.ConfigFile
	raw      []byte
	layers   []layer
	closers  []io.Closer
}

// Options say which image is wanted and how it is got.
type Options struct {
	// Arch is "x86_64" or "aarch64"; an image for another one is an error.
	Arch string
	// TempDir is where an engine's stream or a compressed archive is kept, in a file without a name, until Close.
	// "" is os.TempDir().
	TempDir string
	// Limits bound what such a stream may take. The zero value means the defaults.
	Limits Limits
}

// arches are our names of the processors and those of images.
var arches = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

// transport is a kind of place where images stand, by the prefix of a reference.
type transport struct {
	prefix string
	open   func(ctx context.Context, rest string, o Options) (*Image, error)
	files  bool // on this machine, not in a registry or an engine
}

var transports = []transport{
	{"docker-daemon:", openEngine, false},
	{"docker-archive:", openFileOrDir, true},
	{"oci-archive:", openFileOrDir, true},
	{"oci:", openFileOrDir, true},
	{"docker://", openRegistry, false},
	{"", openRegistry, false},
}

// HasTransport reports whether a reference says by its beginning where the image is, see [Open]. One that does not is a registry's.
func HasTransport(ref string) bool {
	return slices.ContainsFunc(transports[:len(transports)-1], func(t transport) bool { return strings.HasPrefix(ref, t.prefix) })
}

// Place is the file or directory that [Open] reads for a reference, "" where that is a registry or an engine.
func Place(ref string) string {
	for _, t := range transports {
		if rest, ok := strings.CutPrefix(ref, t.prefix); ok && t.files {
			path, _ := splitPlace(rest)
			return path
		}
	}
	return ""
}

// Open finds an image and reads its configuration.
//
// A reference is one of a registry (alpine:3, host/name@sha256:…, optionally with docker:// before it), or begins with
// docker-daemon: (a name or id that the Docker engine knows), docker-archive: (a file written by docker save), oci-archive:
// or oci: (an OCI layout, as a tar file or a directory). The last three may end in a colon and the name of one of several images.
//
// Registries are asked with the credentials of ~/.docker/config.json and its credential helpers.
func Open(ctx context.Context, ref string, o Options) (*Image, error) {
	if arches[o.Arch] == "" {
		return nil, fmt.Errorf("architecture %q: expected x86_64 or aarch64", o.Arch)
	}
	for _, t := range transports {
		if rest, ok := strings.CutPrefix(ref, t.prefix); ok {
			img, err := t.open(ctx, rest, o)
			if _, statErr := os.Stat(ref); err != nil && t.prefix == "" && statErr == nil {
				err = fmt.Errorf("%w (there is a file or directory of this name: oci:%s, oci-archive:%s or docker-archive:%s means that)", err, ref, ref, ref)
			}
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", ref, err)
			}
			img.ref = ref
			return img, nil
		}
	}
	panic("unreachable: the last transport has no prefix")
}

// Config is the image's configuration. It must not be changed.
func (i *Image) Config() *v1.ConfigFile { return i.config }

// RawConfig is the configuration as it is stored, which [Image.ConfigDigest] is the digest of.
func (i *Image) RawConfig() []byte { return i.raw }

// ConfigDigest is sha256: and 64 digits. It is the same wherever the image comes from, and what Docker shows as the image's id.
func (i *Image) ConfigDigest() string { return digestOf(i.raw) }

// ManifestDigest is what registries know the image by, for one architecture; "" where the source has no manifest.
// It differs between sources when they compress layers differently.
func (i *Image) ManifestDigest() string { return i.manifest }

// Close frees what Open keeps open. A tree that the image was added to needs it until that is closed too.
func (i *Image) Close() error {
	var errs []error
	for _, c := range i.closers {
		errs = append(errs, c.Close())
	}
	i.closers = nil
	return errors.Join(errs...)
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// blobs is a place with content under its digest: a registry's repository or an OCI layout.
type blobs interface {
	// read returns all of a document, which must have exactly d's digest.
	read(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// layer makes a layer whose blob has d's digest.
	layer(d v1.Descriptor) (layer, error)
}

// fromManifest makes an image from the manifest or index that d describes.
func fromManifest(ctx context.Context, b blobs, d v1.Descriptor, o Options) (*Image, error) {
	for depth := 0; ; depth++ {
		raw, err := b.read(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		var m struct {
			SchemaVersion int             `json:"schemaVersion"`
			Manifests     []v1.Descriptor `json:"manifests"`
			Config        v1.Descriptor   `json:"config"`
			Layers        []v1.Descriptor `json:"layers"`
		}
		if err := decode(raw, &m); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		switch {
		case m.SchemaVersion == 1:
			return nil, fmt.Errorf("manifest %s has schema version 1, which registries gave up in 2019: push the image again", d.Digest)
		case m.Manifests != nil:
			if depth == 3 {
				return nil, fmt.Errorf("index %s: indexes inside indexes, four deep", d.Digest)
			}
			chosen, err := choose(m.Manifests, o.Arch)
			if err != nil {
				return nil, fmt.Errorf("index %s: %w", d.Digest, err)
			}
			d = chosen
			continue
		}
		raw, err = b.read(ctx, m.Config)
		if err != nil {
			return nil, fmt.Errorf("configuration %s: %w", m.Config.Digest, err)
		}
		img := &Image{manifest: d.Digest.String()}
		if err := img.setConfig(raw, o.Arch); err != nil {
			return nil, err
		}
		if len(m.Layers) != len(img.config.RootFS.DiffIDs) {
			return nil, fmt.Errorf("manifest %s has %d layers, its configuration has %d", d.Digest, len(m.Layers), len(img.config.RootFS.DiffIDs))
		}
		for i, ld := range m.Layers {
			if t := string(ld.MediaType); !strings.Contains(t, "tar") || strings.Contains(t, "encrypted") {
				return nil, fmt.Errorf("layer %d of %d has the type %q, expected a tar archive", i+1, len(m.Layers), t)
			}
			l, err := b.layer(ld)
			if err != nil {
				return nil, fmt.Errorf("layer %d of %d (%s): %w", i+1, len(m.Layers), ld.Digest, err)
			}
			l.digest, l.diffID = ld.Digest.String(), img.config.RootFS.DiffIDs[i].String()
			img.layers = append(img.layers, l)
		}
		return img, nil
	}
}

// setConfig reads a configuration and refuses one for another machine.
func (i *Image) setConfig(raw []byte, arch string) error {
	var c v1.ConfigFile
	if err := decode(raw, &c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != arches[arch] {
		return fmt.Errorf("it is for %s/%s, and linux/%s is wanted", c.OS, c.Architecture, arches[arch])
	}
	for _, id := range c.RootFS.DiffIDs {
		if id.Algorithm != "sha256" {
			return fmt.Errorf("configuration: the diff ID %s is not a SHA-256", id)
		}
	}
	i.config, i.raw = &c, raw
	return nil
}

// choose takes the image for arch out of an index. Attestations and images of other systems are passed over.
func choose(all []v1.Descriptor, arch string) (v1.Descriptor, error) {
	var fit, plain []v1.Descriptor
	var found []string
	for _, d := range all {
		switch p := d.Platform; {
		case d.Annotations["vnd.docker.reference.type"] != "":
		case p == nil || p.OS == "" && p.Architecture == "":
			plain = append(plain, d)
		case p.OS == "linux" && p.Architecture == arches[arch]:
			fit = append(fit, d)
		default:
			found = append(found, p.String())
		}
	}
	// Variants of amd64 (v2, v3) need newer processors; the first without one, or as old as any, is the one to take.
	for _, d := range fit {
		if v := d.Platform.Variant; v == "" || v == "v8" || v == "v1" {
			return d, nil
		}
	}
	switch plain = compact(plain); {
	case len(fit) > 0:
		return fit[0], nil
	case len(plain) == 1: // its configuration says what it is for
		return plain[0], nil
	case len(plain) > 1:
		return v1.Descriptor{}, fmt.Errorf("it holds %d images without a platform", len(plain))
	}
	return v1.Descriptor{}, fmt.Errorf("it holds no image for linux/%s (it has: %s)", arches[arch], strings.Join(found, ", "))
}

// compact drops descriptors of what has been seen: an archive lists an image once for each of its names.
func compact(all []v1.Descriptor) []v1.Descriptor {
	seen := map[v1.Hash]bool{}
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		again := seen[d.Digest]
		seen[d.Digest] = true
		return again
	})
}

// check compares a small blob with its descriptor.
func check(b []byte, d v1.Descriptor) error {
	if found := digestOf(b); found != d.Digest.String() {
		return fmt.Errorf("its digest is %s: it was damaged or changed on the way", found)
	}
	return nil
}
