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
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
)

// Image is a container image: its configuration, and layers that have not been read yet.
type Image struct {
	ref      string
	manifest string
	config   *v1.ConfigFile
	raw      []byte
	layers   []layer
	closers  []io.Closer
}

// Options choose an image, and bound its cost.
type Options struct {
	// Arch is "x86_64" or "aarch64"; an image for another one is an error.
	Arch string
	// TempDir is the directory of a temporary file, without a name, that holds an engine's stream or a
	// decompressed archive until Close. Empty means os.TempDir().
	TempDir string
	// Limits bound such a file. The zero value means the defaults.
	Limits Limits
}

// transport is a kind of place of images, named by the prefix of a reference.
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

// HasTransport reports whether a reference begins with the kind of its place, see [Open]. If not, it is a
// registry's.
func HasTransport(ref string) bool {
	return slices.ContainsFunc(transports, func(t transport) bool {
		return t.prefix != "" && strings.HasPrefix(ref, t.prefix)
	})
}

// Place returns the file or directory that [Open] reads for a reference, "" if that is a registry or an
// engine.
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
// A reference is one of a registry (alpine:3, host/name@sha256:…, optionally with docker:// before it), or
// begins with docker-daemon: (a name or ID in the Docker engine), docker-archive: (a file of docker save),
// oci-archive: or oci: (an OCI layout, as a tar file or a directory). The last three may end in a colon and
// the name of one of several images.
//
// Registries get the credentials of ~/.docker/config.json and its credential helpers.
func Open(ctx context.Context, ref string, o Options) (*Image, error) {
	if arch.Go(o.Arch) == "" {
		return nil, fmt.Errorf("invalid architecture %q: expected x86_64 or aarch64", o.Arch)
	}
	for _, t := range transports {
		if rest, ok := strings.CutPrefix(ref, t.prefix); ok {
			img, err := t.open(ctx, rest, o)
			if _, statErr := os.Stat(ref); err != nil && t.prefix == "" && statErr == nil {
				err = fmt.Errorf("%w (for the file or directory of this name: oci:%s, oci-archive:%s or "+
					"docker-archive:%s)",
					err, ref, ref, ref)
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

// OpenBuilt is [Open] for the name of an image that may just have been built: without the kind of a place in
// the name, the Docker engine comes first, as in nitro-cli, since the registry may have another image by that
// name. If the image is the registry's, missed says why it is not the engine's.
func OpenBuilt(ctx context.Context, ref string, o Options) (img *Image, missed, err error) {
	if HasTransport(ref) {
		img, err = Open(ctx, ref, o)
		return img, nil, err
	}
	if img, err = Open(ctx, "docker-daemon:"+ref, o); err == nil ||
		!errors.Is(err, errNoSuchImage) && !errors.Is(err, errNoEngine) {
		return img, nil, err
	}
	missed = err
	if img, err = Open(ctx, ref, o); err != nil {
		err = errors.Join(missed, err)
	}
	return img, missed, err
}

// Config returns the image's configuration. It must not be changed.
func (i *Image) Config() *v1.ConfigFile { return i.config }

// RawConfig returns the bytes of the configuration.
func (i *Image) RawConfig() []byte { return i.raw }

// ConfigDigest returns the digest of [Image.RawConfig]: "sha256:" and 64 digits. It is the same wherever the
// image comes from. Docker shows it as the image's ID.
func (i *Image) ConfigDigest() string { return digestOf(i.raw) }

// ManifestDigest returns the digest by which registries know the image, for one architecture; "" if the
// source has no manifest. It differs between sources that compress layers differently.
func (i *Image) ManifestDigest() string { return i.manifest }

// Close frees the files of the image. A tree that the image was added to needs them until it is closed
// itself.
func (i *Image) Close() error {
	var errs []error
	for _, c := range i.closers {
		errs = append(errs, c.Close())
	}
	i.closers = nil
	return errors.Join(errs...)
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// blobs is a place that stores content by its digest: a registry's repository or an OCI layout.
type blobs interface {
	// read returns a document and verifies its digest.
	read(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// layer returns the layer in a blob.
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
			return nil, fmt.Errorf("manifest %s: found schema version 1, expected 2: push the image again "+
				"with a current tool",
				d.Digest)
		case m.Manifests != nil && (m.Layers != nil || m.Config.Digest.Hex != ""):
			return nil, fmt.Errorf("manifest %s: found manifests as in an index, "+
				// CVE-2021-41190: which it is depends on the reader
				"and config or layers as in an image", d.Digest)
		case m.Manifests != nil:
			if depth == 3 {
				return nil, fmt.Errorf("index %s: indexes are nested more than 3 deep", d.Digest)
			}
			chosen, err := choose(ctx, b, m.Manifests, o.Arch)
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
			return nil, fmt.Errorf("manifest %s: found %d layers, expected %d as in its configuration",
				d.Digest, len(m.Layers), len(img.config.RootFS.DiffIDs))
		}
		for i, ld := range m.Layers {
			if t := string(ld.MediaType); !strings.Contains(t, "tar") || strings.Contains(t, "encrypted") {
				return nil, fmt.Errorf("layer %d of %d: found media type %q, expected a tar archive",
					i+1, len(m.Layers), t)
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

// setConfig reads a configuration and rejects one for another machine.
func (i *Image) setConfig(raw []byte, machine string) error {
	var c v1.ConfigFile
	if err := decode(raw, &c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != arch.Go(machine) {
		return fmt.Errorf("wrong platform: found %s/%s, expected linux/%s",
			c.OS, c.Architecture, arch.Go(machine))
	}
	for _, id := range c.RootFS.DiffIDs {
		if id.Algorithm != "sha256" {
			return fmt.Errorf("configuration: invalid diff ID %s: expected a SHA-256", id)
		}
	}
	i.config, i.raw = &c, raw
	return nil
}

// imageConfigs are the media types of images' configurations, and so their artifact types.
var imageConfigs = []string{
	"", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
}

// choose picks the image for machine from an index. It ignores images for other systems and what is no image:
// attestations, signatures, bills of materials.
func choose(ctx context.Context, b blobs, all []v1.Descriptor, machine string) (v1.Descriptor, error) {
	var fit, plain []v1.Descriptor
	var found []string
	for _, d := range compact(all) {
		switch p := d.Platform; {
		case d.Annotations["vnd.docker.reference.type"] != "" ||
			!slices.Contains(imageConfigs, d.ArtifactType):
		case p == nil || p.OS == "" && p.Architecture == "":
			plain = append(plain, d)
		case p.OS == "linux" && p.Architecture == arch.Go(machine):
			fit = append(fit, d)
		default:
			found = append(found, p.String())
		}
	}
	// Variants of amd64 (v2, v3) need newer processors: take the first image without one, or with the oldest.
	for _, d := range fit {
		if v := d.Platform.Variant; v == "" || v == "v8" || v == "v1" {
			return d, nil
		}
	}
	if len(fit) > 0 {
		return fit[0], nil
	}
	if len(plain) > 1 && len(plain) <= 100 { // nobody signs an image more often
		images := plain[:0]
		for _, d := range plain {
			if is, err := isImage(ctx, b, d); err != nil {
				return d, err
			} else if is {
				images = append(images, d)
			}
		}
		plain = images
	}
	switch len(plain) {
	case 0:
		return v1.Descriptor{}, fmt.Errorf("no image for linux/%s: found %s",
			arch.Go(machine), strings.Join(found, ", "))
	case 1: // its configuration has the platform
		return plain[0], nil
	}
	var names []string
	for _, d := range plain {
		names = append(names, nameOf(d))
	}
	return v1.Descriptor{}, fmt.Errorf("found %d images without a platform, expected one: name one of them "+
		"(%s)",
		len(plain), strings.Join(names, ", "))
}

// isImage reads a manifest and tells an image from what is stored beside one: cosign's signatures and the
// like have a subject, or layers that are no archives.
func isImage(ctx context.Context, b blobs, d v1.Descriptor) (bool, error) {
	raw, err := b.read(ctx, d)
	var m struct {
		ArtifactType string `json:"artifactType"`
		Subject      any    `json:"subject"`
		Layers       []struct {
			MediaType string `json:"mediaType"`
		} `json:"layers"`
	}
	if err == nil {
		err = decode(raw, &m)
	}
	if err != nil {
		return false, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	for _, l := range m.Layers {
		if !strings.Contains(l.MediaType, "tar") {
			return false, nil
		}
	}
	return m.Subject == nil && slices.Contains(imageConfigs, m.ArtifactType), nil
}

// compact drops duplicate digests: an archive lists an image once for each of its names.
func compact(all []v1.Descriptor) []v1.Descriptor {
	seen := map[v1.Hash]bool{}
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		again := seen[d.Digest]
		seen[d.Digest] = true
		return again
	})
}

// check verifies the digest of a small blob.
func check(b []byte, d v1.Descriptor) error {
	if found := digestOf(b); found != d.Digest.String() {
		return fmt.Errorf("digest is %s: the blob was damaged or changed on the way", found)
	}
	return nil
}
