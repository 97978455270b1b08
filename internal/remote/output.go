package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// bundle is a Sigstore bundle 0.3 (sigstore/protobuf-specs, sigstore_bundle.proto): where cosign looks for
// attestations. neb reads the envelope alone.
type bundle struct {
	MediaType string `json:"mediaType"`
	Material  struct {
		PublicKey struct{} `json:"publicKey"` // without a hint, as the signature has no keyid
	} `json:"verificationMaterial"`
	Envelope json.RawMessage `json:"dsseEnvelope"` // with one signature
}

// Statements returns the signed statements about the output with a key, unverified, and the errors of those
// that cannot be read.
func (r *Remote) Statements(ctx context.Context, key string) ([][]byte, error) {
	of, err := Subject(ctx, key)
	if err != nil {
		return nil, err
	}
	return r.statements(ctx, of)
}

func (r *Remote) statements(ctx context.Context, of ocispec.Descriptor) ([][]byte, error) {
	list, unread := r.referrers(ctx, of, typeStatement)
	found, err := each(list, func(m referrer) ([]byte, error) {
		if len(m.manifest.Layers) != 1 || m.manifest.Layers[0].MediaType != typeStatement {
			return nil, fmt.Errorf("%s: statement %s: expected one layer of type %s", r.name, m.digest,
				typeStatement)
		}
		data, err := r.document(ctx, m.manifest.Layers[0])
		if err != nil {
			return nil, err
		}
		var b bundle
		if err := json.Unmarshal(data, &b); err != nil || len(b.Envelope) == 0 {
			return nil, fmt.Errorf("%s: statement %s: expected a Sigstore bundle with an envelope", r.name,
				m.digest)
		}
		return b.Envelope, nil
	})
	return found, errors.Join(unread, err)
}

// Fetch writes the files of the output with a key into dir, where they do not exist yet. They have the hashes
// that files gives. After an error dir has none of them; it is [ErrNotFound] if the remote does not have
// them.
func (r *Remote) Fetch(ctx context.Context, key string, files []trust.File, dir string) error {
	of, err := Subject(ctx, key)
	if err != nil {
		return err
	}
	list, err := r.referrers(ctx, of, typeOutput)
	if len(list) == 0 && err == nil {
		return fmt.Errorf("%s: files of %s: %w", r.name, key, ErrNotFound)
	}
	// Anybody who may push can add an artifact that is not what it should be: try each.
	errs := []error{err}
	for _, m := range list {
		err := r.fetch(ctx, m, files, dir)
		if err == nil {
			return nil
		}
		for _, f := range files {
			if gone := os.Remove(filepath.Join(dir, f.Name)); !errors.Is(gone, fs.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
		if ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Remote) fetch(ctx context.Context, m referrer, files []trust.File, dir string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files {
		i := slices.IndexFunc(m.manifest.Layers, func(l ocispec.Descriptor) bool {
			return l.Annotations[ocispec.AnnotationTitle] == f.Name
		})
		if i < 0 {
			return fmt.Errorf("%s: artifact %s has no file %s", r.name, m.digest, f.Name)
		}
		group.Go(func() error {
			if err := r.file(ctx, m.manifest.Layers[i], f, filepath.Join(dir, f.Name)); err != nil {
				return fmt.Errorf("%s: artifact %s: %s: %w", r.name, m.digest, f.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// file writes a layer to path, which has the content of f afterwards or does not exist.
func (r *Remote) file(ctx context.Context, layer ocispec.Descriptor, f trust.File, path string) error {
	if layer.Size < 0 || layer.Size > maxFile {
		return fmt.Errorf("layer has %d bytes, expected 0 to %d", layer.Size, maxFile)
	}
	if err := checkDigest(layer.Digest); err != nil {
		return err
	}
	blob := r.open(ctx, layer, 0)
	defer blob.Close()
	var in io.Reader = blob
	switch layer.MediaType {
	case mediaFile:
	case mediaZstd:
		z, err := zstd.NewReader(blob, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFile))
		if err != nil {
			return err
		}
		defer z.Close()
		in = z
	default:
		return fmt.Errorf("layer has media type %q, expected %s or %s", layer.MediaType, mediaFile, mediaZstd)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, hash), io.LimitReader(in, maxFile+1))
	switch sum := hex.EncodeToString(hash.Sum(nil)); {
	case err != nil:
	case n > maxFile:
		err = fmt.Errorf("unpacks to more than %d bytes", maxFile)
	case sum != f.SHA256:
		err = fmt.Errorf("wrong content: expected SHA-256 %s, found %s", f.SHA256, sum)
	default:
		return out.Close()
	}
	_ = os.Remove(path)
	return err
}

// Push pushes the files of the output with a key, which are in dir, and a signed statement about them.
// Pushing the same files again moves nothing. The statement is a DSSE envelope with one signature.
func (r *Remote) Push(
	ctx context.Context, key string, files []trust.File, dir string, statement []byte,
) error {
	return r.pushing(ctx, func(t oras.GraphTarget) error {
		of, err := putSubject(ctx, t, key)
		if err != nil {
			return err
		}
		if err := t.Tag(ctx, of, key); err != nil {
			return err
		}
		layers := make([]ocispec.Descriptor, len(files))
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		for i, f := range files {
			group.Go(func() error {
				data, err := stream.ReadFile(filepath.Join(dir, f.Name), maxFile)
				if err != nil {
					return err
				}
				if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
					return fmt.Errorf("%s: wrong content: expected SHA-256 %s, found %x",
						filepath.Join(dir, f.Name), f.SHA256, sum)
				}
				media, data := compressed(data)
				layers[i] = content.NewDescriptorFromBytes(media, data)
				layers[i].Annotations = map[string]string{ocispec.AnnotationTitle: f.Name}
				return put(gctx, t, layers[i], bytes.NewReader(data))
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if _, err := putManifest(ctx, t, typeOutput, &of, nil, layers...); err != nil {
			return err
		}
		if err := r.listed(ctx, t, typeOutput, of, layers); err != nil {
			return err
		}
		return r.state(ctx, t, of, statement)
	})
}

// State pushes a signed statement about the output with a key: a DSSE envelope with one signature.
func (r *Remote) State(ctx context.Context, key string, statement []byte) error {
	return r.pushing(ctx, func(t oras.GraphTarget) error {
		of, err := putSubject(ctx, t, key)
		if err != nil {
			return err
		}
		return r.state(ctx, t, of, statement)
	})
}

func (r *Remote) state(
	ctx context.Context, t oras.GraphTarget, of ocispec.Descriptor, statement []byte,
) error {
	b := bundle{MediaType: typeStatement, Envelope: statement}
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	layer := content.NewDescriptorFromBytes(typeStatement, data)
	if err := put(ctx, t, layer, bytes.NewReader(data)); err != nil {
		return err
	}
	layers := []ocispec.Descriptor{layer}
	if _, err := putManifest(ctx, t, typeStatement, &of, nil, layers...); err != nil {
		return err
	}
	return r.listed(ctx, t, typeStatement, of, layers)
}

// listed makes sure that a pushed manifest is in the list of referrers. A registry without the referrers API
// has that list under a tag, which two pushers may write at once: then one entry is lost, and is added again
// by pushing the manifest again.
func (r *Remote) listed(ctx context.Context, t oras.GraphTarget, artifact string, of ocispec.Descriptor,
	layers []ocispec.Descriptor) error {
	var unread error
	for range retries {
		var list []referrer
		list, unread = r.referrers(ctx, of, artifact)
		desc, err := putManifest(ctx, discard{}, artifact, &of, nil, layers...)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(m referrer) bool { return m.digest == desc.Digest }) {
			return nil
		}
		if desc, err = putManifest(ctx, t, artifact, &of, nil, layers...); err != nil {
			return err
		}
	}
	return errors.Join(unread, fmt.Errorf("the registry does not list %s of %s after it was pushed %d times",
		artifact, of.Digest, retries+1))
}

// discard is a target that keeps nothing: packing a manifest into it computes its digest.
type discard struct{}

func (discard) Push(context.Context, ocispec.Descriptor, io.Reader) error { return nil }

// encoder is one for all files: each takes tens of megabytes to make.
var encoder = sync.OnceValue(func() *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(parallel))
	if err != nil {
		panic(err) // the options are constants
	}
	return z
})

// compressed returns content with zstd where that saves a twentieth, and the media type of the result.
func compressed(data []byte) (string, []byte) {
	if small := encoder().EncodeAll(data, nil); len(small) < len(data)-len(data)/20 {
		return mediaZstd, small
	}
	return mediaFile, data
}

// Keys lists the keys of the outputs that a remote has, in the order of the registry.
func (r *Remote) Keys(ctx context.Context) ([]string, error) {
	lister, ok := r.target.(interface {
		Tags(ctx context.Context, last string, fn func(tags []string) error) error
	})
	if !ok {
		return nil, nil // a directory that does not exist
	}
	var keys []string
	err := lister.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			if isKey(tag) {
				keys = append(keys, tag)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: list tags: %w", r.name, err)
	}
	return keys, nil
}

// isKey reports whether a tag is the key of an output: it ends in a SHA-256.
func isKey(tag string) bool {
	const digits = 64
	if len(tag) <= digits || tag[len(tag)-digits-1] != '-' || tag[:7] == "sha256-" {
		return false
	}
	_, err := hex.DecodeString(tag[len(tag)-digits:])
	return err == nil
}

// Download returns a download by its SHA-256, from an offset in bytes. The caller checks the hash. Reading
// fails with [ErrNotFound] if the remote does not have it.
func (r *Remote) Download(ctx context.Context, sum string, size, at int64) io.ReadCloser {
	return r.open(ctx, ocispec.Descriptor{MediaType: mediaFile, Size: size,
		Digest: digest.NewDigestFromEncoded(digest.SHA256, sum)}, at)
}

// PushDownloads pushes files by their SHA-256. path returns where one is; tag names the set, so that the
// registry keeps it.
func (r *Remote) PushDownloads(ctx context.Context, tag string, sums []string,
	path func(sum string) string) error {
	return r.pushing(ctx, func(t oras.GraphTarget) error {
		layers := make([]ocispec.Descriptor, len(sums))
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		for i, sum := range sums {
			group.Go(func() error {
				f, err := os.Open(path(sum))
				if err != nil {
					return err
				}
				defer f.Close()
				info, err := f.Stat()
				if err != nil {
					return err
				}
				layers[i] = ocispec.Descriptor{MediaType: mediaFile, Size: info.Size(),
					Digest: digest.NewDigestFromEncoded(digest.SHA256, sum)}
				return put(gctx, t, layers[i], f)
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		m, err := putManifest(ctx, t, typeDownloads, nil, nil, layers...)
		if err != nil {
			return err
		}
		return t.Tag(ctx, m, tag)
	})
}
