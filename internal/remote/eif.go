package remote

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
)

const (
	// Scheme begins the name of an EIF in a registry.
	Scheme = "oci://"
	// maxEIF is the size of the largest EIF that is pulled, in bytes. An enclave has less memory.
	maxEIF = 64 << 30
	// mediaSection is a part of an EIF: the header, a section with its header, or what is between them.
	mediaSection = "application/vnd.neb.eif.part.v1"
)

// Measurements of an EIF in the annotations of its manifest, for people. They are never believed.
var pcrAnnotations = []struct {
	name string
	pcr  int
}{{"vnd.neb.pcr0", 0}, {"vnd.neb.pcr1", 1}, {"vnd.neb.pcr2", 2}, {"vnd.neb.pcr8", 8}}

// ParseEIF splits the name of an EIF in a registry, with or without [Scheme], into the remote and a tag or
// digest. The tag is "latest" where the name has none.
func ParseEIF(name string) (repository, reference string) {
	name = strings.TrimPrefix(name, Scheme)
	if repository, digest, ok := strings.Cut(name, "@"); ok {
		return repository, digest
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, "latest"
}

// PushEIF pushes an EIF under a tag and returns the digest of its manifest; in is the EIF's open file. Each
// section is a blob: those that the repository has already, as the kernel of another EIF, are not moved.
func (r *Remote) PushEIF(ctx context.Context, f *eif.File, in *os.File, pcrs eif.Measurements,
	tag string) (string, error) {
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	cuts := []int64{0, info.Size()}
	for _, s := range f.Sections {
		cuts = append(cuts, s.Offset, s.End())
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	annotations := map[string]string{}
	for _, a := range pcrAnnotations {
		if pcr, ok := pcrs.PCR(a.pcr); ok {
			annotations[a.name] = pcr.String()
		}
	}
	var manifest ocispec.Descriptor
	err = r.pushing(ctx, func(t oras.GraphTarget) error {
		layers := make([]ocispec.Descriptor, len(cuts)-1)
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		for i := range layers {
			group.Go(func() error {
				part := func() *io.SectionReader {
					return io.NewSectionReader(in, cuts[i], cuts[i+1]-cuts[i])
				}
				sum, err := digest.SHA256.FromReader(part())
				if err != nil {
					return err
				}
				layers[i] = ocispec.Descriptor{MediaType: mediaSection, Digest: sum, Size: part().Size()}
				return put(gctx, t, layers[i], part())
			})
		}
		err := group.Wait()
		if err != nil {
			return err
		}
		if manifest, err = putManifest(ctx, t, typeEIF, nil, annotations, layers...); err != nil {
			return err
		}
		return t.Tag(ctx, manifest, tag)
	})
	return manifest.Digest.String(), err
}

// EIF is an EIF in a remote.
type EIF struct {
	remote   *Remote
	name     string
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
}

// EIF returns the EIF with a tag or digest.
func (r *Remote) EIF(ctx context.Context, reference string) (*EIF, error) {
	desc, m, err := r.tagged(ctx, "EIF "+reference, reference, typeEIF)
	return &EIF{r, r.name + ": " + reference, desc, m}, err
}

// Digest returns the digest of the manifest, as sha256:HEX. It determines all bytes of the EIF.
func (e *EIF) Digest() string { return e.desc.Digest.String() }

// Manifest returns the SHA-256 of the manifest.
func (e *EIF) Manifest() string { return e.desc.Digest.Encoded() }

// Statements returns the signed statements about the EIF, unverified, and the errors of those that cannot be
// read.
func (e *EIF) Statements(ctx context.Context) ([][]byte, error) {
	return e.remote.statements(ctx, e.desc)
}

// State pushes a signed statement about the EIF: a DSSE envelope with one signature.
func (e *EIF) State(ctx context.Context, statement []byte) error {
	return e.remote.pushing(ctx, func(t oras.GraphTarget) error {
		return e.remote.state(ctx, t, e.desc, statement)
	})
}

// Pull writes the EIF to a file that replaces path atomically. It calls check with the file before that.
func (e *EIF) Pull(ctx context.Context, path string, check func(f *os.File, size int64) error) error {
	var size int64
	for _, l := range e.manifest.Layers {
		if l.MediaType != mediaSection || l.Size < 0 || l.Size > maxEIF-size {
			return fmt.Errorf("%s: layer %s: expected type %s and at most %d bytes in all", e.name, l.Digest,
				mediaSection, int64(maxEIF))
		}
		size += l.Size
	}
	return atomicfile.Write(path, func(f *os.File) error {
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		var at int64
		for _, l := range e.manifest.Layers {
			to := io.NewOffsetWriter(f, at)
			at += l.Size
			group.Go(func() error { return e.remote.part(gctx, l, to) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := check(f, size); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		return nil
	})
}

// part copies a layer and checks its digest.
func (r *Remote) part(ctx context.Context, l ocispec.Descriptor, to io.Writer) error {
	if err := checkDigest(l.Digest); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	blob := r.open(ctx, l, 0)
	defer blob.Close()
	hash := digest.SHA256.Digester()
	if _, err := io.CopyBuffer(io.MultiWriter(to, hash.Hash()), blob, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if found := hash.Digest(); found != l.Digest {
		return fmt.Errorf("%s: wrong content: expected %s, found %s", r.name, l.Digest, found)
	}
	return nil
}
