package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// indexTag is the tag of the signed index of releases.
const indexTag = "releases"

// Index returns the signed index of releases, unverified.
func (r *Remote) Index(ctx context.Context) ([]byte, error) {
	_, m, err := r.tagged(ctx, "index of releases", indexTag, typeIndex)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) != 1 {
		return nil, fmt.Errorf("%s: index of releases: expected one layer, found %d", r.name, len(m.Layers))
	}
	return r.document(ctx, m.Layers[0])
}

// tagged returns the manifest of an artifact of a type, by tag or digest. what names it in errors.
func (r *Remote) tagged(ctx context.Context, what, reference, artifact string) (
	desc ocispec.Descriptor, m ocispec.Manifest, err error) {
	desc, err = r.target.Resolve(ctx, reference)
	if errors.Is(err, errdef.ErrNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return desc, m, fmt.Errorf("%s: %s: %w", r.name, what, err)
	}
	if m, err = r.manifest(ctx, desc); err == nil && m.ArtifactType != artifact {
		err = fmt.Errorf("%s: %s has artifact type %q, expected %s", r.name, what, m.ArtifactType, artifact)
	}
	return desc, m, err
}

// PushIndex replaces the signed index of releases.
func (r *Remote) PushIndex(ctx context.Context, index []byte) error {
	return r.pushing(ctx, func(t oras.GraphTarget) error {
		layer := content.NewDescriptorFromBytes(mediaEnvelope, index)
		if err := put(ctx, t, layer, bytes.NewReader(index)); err != nil {
			return err
		}
		desc, err := putManifest(ctx, t, typeIndex, nil, nil, layer)
		if err != nil {
			return err
		}
		return t.Tag(ctx, desc, indexTag)
	})
}
