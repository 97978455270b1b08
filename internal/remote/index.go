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
	desc, err := r.target.Resolve(ctx, indexTag)
	if errors.Is(err, errdef.ErrNotFound) {
		err = ErrNotFound
	}
	var m ocispec.Manifest
	if err == nil {
		m, err = r.manifest(ctx, desc)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: index of releases: %w", r.name, err)
	}
	if m.ArtifactType != typeIndex || len(m.Layers) != 1 {
		return nil, fmt.Errorf("%s: index of releases: expected one layer of an artifact of type %s", r.name, typeIndex)
	}
	return r.document(ctx, m.Layers[0])
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
