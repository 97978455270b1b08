package image

import (
	"context"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// sameImage reports whether two references name the same image. Tools write them with or without the default
// host, directory and tag, as Docker does.
func sameImage(a, b string) bool {
	x, err1 := name.ParseReference(a)
	y, err2 := name.ParseReference(b)
	return a == b || err1 == nil && err2 == nil && x.Name() == y.Name()
}

// keychain has the credentials of the docker command for registries, and Podman's if that has none.
func keychain() authn.Keychain {
	places := []string{"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "HOME"}
	if !slices.ContainsFunc(places, func(name string) bool { return os.Getenv(name) != "" }) {
		// The library would read containers/auth.json of the current directory, which another user may have
		// written.
		return authn.NewMultiKeychain()
	}
	return authn.DefaultKeychain
}

// repository is a repository of a registry.
type repository struct {
	name  name.Repository
	opts  []remote.Option
	first *remote.Descriptor // the answer for the reference itself
}

func openRegistry(ctx context.Context, rest string, o Options) (*Image, error) {
	ref, err := name.ParseReference(rest)
	if err != nil {
		return nil, err
	}
	transport := stream.Transport(remote.DefaultTransport.(*http.Transport).Clone(), stream.Stall)
	r := repository{name: ref.Context(), opts: []remote.Option{
		remote.WithAuthFromKeychain(keychain()), remote.WithContext(ctx), remote.WithUserAgent("neb"),
		remote.WithTransport(boundedManifests{transport}),
	}}
	if r.first, err = remote.Get(ref, r.opts...); err != nil {
		return nil, err
	}
	return fromManifest(ctx, r, r.first.Descriptor, o)
}

func (r repository) read(_ context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Digest == r.first.Digest {
		return r.first.Manifest, check(r.first.Manifest, d)
	}
	if _, err := blobName(d); err != nil {
		return nil, err
	}
	digest := r.name.Digest(d.Digest.String())
	if d.MediaType.IsImage() || d.MediaType.IsIndex() {
		m, err := remote.Get(digest, r.opts...)
		if err != nil {
			return nil, err
		}
		return m.Manifest, check(m.Manifest, d)
	}
	l, err := remote.Layer(digest, r.opts...)
	if err != nil {
		return nil, err
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := readDocument(body)
	if err != nil {
		return nil, err
	}
	return b, check(b, d)
}

func (r repository) layer(d v1.Descriptor) (layer, error) {
	if _, err := blobName(d); err != nil {
		return layer{}, err
	}
	return layer{open: func(ctx context.Context) (io.ReadCloser, error) {
		opts := append(slices.Clone(r.opts), remote.WithContext(ctx))
		l, err := remote.Layer(r.name.Digest(d.Digest.String()), opts...)
		if err != nil {
			return nil, err
		}
		return l.Compressed()
	}}, nil
}
