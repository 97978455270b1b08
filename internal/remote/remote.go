// Package remote shares outputs, downloads and EIFs between machines, through a registry (OCI Distribution
// 1.1) or a directory in OCI image layout.
//
// It moves bytes and does not decide which to trust: whatever it returns is either unverified and named so,
// or matches a hash that the caller gave (see trust and component). Everything is found by digest. An output
// is found by the digest of a small manifest that names its key, the subject: its files and the statements
// about it are referrers of that subject, so nothing that a registry can change decides what is looked at.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	registryremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// ErrNotFound means that the remote does not have it.
var ErrNotFound = errors.New("not found")

// Types of the artifacts, described in docs/sharing.md.
const (
	typeKey       = "application/vnd.neb.key.v1"
	typeOutput    = "application/vnd.neb.output.v1"
	typeStatement = "application/vnd.dev.sigstore.bundle.v0.3+json" // also of its layer
	typeDownloads = "application/vnd.neb.downloads.v1"
	typeClaim     = "application/vnd.neb.claim.v1"
	typeEIF       = "application/vnd.neb.eif.v1"
	typeIndex     = "application/vnd.neb.releases.v1"

	mediaFile     = "application/vnd.neb.file.v1"
	mediaZstd     = "application/vnd.neb.file.v1+zstd"
	mediaEnvelope = "application/vnd.dsse.envelope.v1+json"

	keyAnnotation = "vnd.neb.key"
)

// parallel is how many blobs are moved at once.
const parallel = 4

// Limits of what is read from a remote.
const (
	maxDocument  = 4 << 20   // bytes of a manifest, an index or an envelope
	maxFile      = 256 << 20 // bytes of a file of an output
	maxReferrers = 256       // of one subject
	maxPages     = 16        // of a list of referrers or tags
)

// epoch is the time in every manifest: the same content has the same digest.
const epoch = "1970-01-01T00:00:00Z"

// Remote is a repository of a registry, or a directory in OCI image layout. Its methods may be called from
// several goroutines.
type Remote struct {
	name   string // as the user gave it
	dir    string // "" for a registry
	target oras.GraphTarget
}

// Open returns the remote with a name: HOST/REPOSITORY of a registry, or the path of a directory in OCI image
// layout, which contains "./" or begins with "/" or "oci:". It does not connect. Credentials for a registry
// are those of the docker command, including its credential helpers. A registry on loopback is asked over
// HTTP, as Docker does.
func Open(ctx context.Context, name string) (*Remote, error) {
	r := &Remote{name: name}
	if dir, explicit := strings.CutPrefix(name, "oci:"); explicit || filepath.IsAbs(dir) ||
		strings.HasPrefix(dir, "./") || strings.HasPrefix(dir, "../") {
		r.dir = dir
		return r, r.reopen(ctx)
	}
	repo, err := registryremote.NewRepository(name)
	if err != nil {
		return nil, fmt.Errorf("invalid remote %q: expected HOST/REPOSITORY or a directory: %w", name, err)
	}
	if repo.Reference.Reference != "" {
		return nil, fmt.Errorf("invalid remote %q: expected HOST/REPOSITORY without tag or digest", name)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("credentials of the docker command: %w", err)
	}
	transport := retry.NewTransport(newTransport())
	transport.Policy = func() retry.Policy { return policy }
	client := &auth.Client{
		Client:     &http.Client{Transport: transport},
		Cache:      auth.NewCache(),
		Credential: credentials.Credential(store),
	}
	host, _, err := net.SplitHostPort(repo.Reference.Host())
	if err != nil {
		host = repo.Reference.Host()
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		repo.PlainHTTP = true
		client.BlockedRealmPrefixes = nil
	}
	client.SetUserAgent("neb")
	repo.Client = client
	repo.MaxMetadataBytes = maxDocument
	repo.ReferrerListMaxPages, repo.TagListMaxPages = maxPages, maxPages
	repo.SkipReferrersGC = true // deleting needs rights that a pusher may lack
	r.target = repo
	return r, nil
}

// stall is how long a registry may send and take nothing.
var stall = stream.Stall

// policy retries requests that the registry rejects temporarily, but none that it leaves unanswered: each of
// these takes the time of [stall].
var policy = &retry.GenericPolicy{
	Retryable: func(answer *http.Response, err error) (bool, error) {
		if err != nil {
			return false, err
		}
		return retry.DefaultPredicate(answer, nil)
	},
	Backoff: retry.DefaultBackoff, MinWait: 200 * time.Millisecond, MaxWait: 3 * time.Second, MaxRetry: 5,
}

// newTransport limits the time that a registry may take to answer, and to go on.
func newTransport() http.RoundTripper {
	return stream.Transport(http.DefaultTransport.(*http.Transport).Clone(), stall)
}

// reopen reads the index of a directory again, which another process may have changed. A directory that does
// not exist is left alone until something is pushed.
func (r *Remote) reopen(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(r.dir, ocispec.ImageLayoutFile)); errors.Is(err, fs.ErrNotExist) {
		r.target = memory.New()
		return nil
	}
	if info, err := os.Stat(filepath.Join(r.dir, ocispec.ImageIndexFile)); err == nil &&
		info.Size() > maxDocument {
		return fmt.Errorf("%s: index.json has %d bytes, expected at most %d", r.name, info.Size(),
			maxDocument)
	}
	// A directory without a lock that this user can create or open was not pushed to by this neb.
	lock := r.lock()
	if ok, _ := lock.TryRLockContext(ctx, 50*time.Millisecond); ok {
		defer lock.Close()
	}
	store, err := oci.NewWithContext(ctx, r.dir)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	r.target = store
	return nil
}

// lock returns the lock of a directory. Users who may only read the directory lock it too, so they must be
// able to open it.
func (r *Remote) lock() *flock.Flock {
	return flock.New(filepath.Join(r.dir, ".lock"), flock.SetPermissions(0o644))
}

// String returns the name that the user gave.
func (r *Remote) String() string { return r.name }

// pushing calls push with the target to write to. Other processes that write to the same directory wait.
func (r *Remote) pushing(ctx context.Context, push func(oras.GraphTarget) error) error {
	wrap := func(err error) error {
		if err != nil {
			return fmt.Errorf("push to %s: %w", r.name, err)
		}
		return nil
	}
	if r.dir == "" {
		return wrap(push(r.target))
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return wrap(err)
	}
	lock := r.lock()
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return wrap(err)
	}
	defer lock.Close()
	store, err := oci.NewWithContext(ctx, r.dir)
	if err != nil {
		return wrap(err)
	}
	r.target = store
	return wrap(push(store))
}

// put pushes content unless the target has it.
func put(ctx context.Context, t oras.GraphTarget, desc ocispec.Descriptor, body io.Reader) error {
	if ok, err := t.Exists(ctx, desc); ok || err != nil {
		return err
	}
	if err := t.Push(ctx, desc, body); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}

// putManifest pushes a manifest and the blobs of its layers, which must be pushed already.
func putManifest(ctx context.Context, t content.Pusher, artifact string, subject *ocispec.Descriptor,
	annotations map[string]string, layers ...ocispec.Descriptor) (ocispec.Descriptor, error) {
	all := map[string]string{ocispec.AnnotationCreated: epoch}
	for k, v := range annotations {
		all[k] = v
	}
	return oras.PackManifest(ctx, t, oras.PackManifestVersion1_1, artifact, oras.PackManifestOptions{
		Subject: subject, Layers: layers, ManifestAnnotations: all,
	})
}

// Subject returns the descriptor of the manifest that names a key. Statements about the output refer to it.
func Subject(ctx context.Context, key string) (ocispec.Descriptor, error) {
	return putSubject(ctx, discard{}, key)
}

func putSubject(ctx context.Context, t content.Pusher, key string) (ocispec.Descriptor, error) {
	return putManifest(ctx, t, typeKey, nil, map[string]string{keyAnnotation: key})
}

// referrer is a manifest that refers to another one.
type referrer struct {
	digest   digest.Digest
	manifest ocispec.Manifest
}

// referrers returns the manifests of a type that refer to a manifest, and the errors of those that cannot be
// read: anybody who may push can add one. It looks into all of them: some registries list the type of the
// configuration as that of the artifact.
func (r *Remote) referrers(ctx context.Context, to ocispec.Descriptor, artifact string) ([]referrer, error) {
	list, err := registry.Referrers(ctx, r.target, to, "")
	var answer *errcode.ErrorResponse
	if errors.Is(err, errdef.ErrNotFound) || errors.As(err, &answer) &&
		answer.StatusCode == http.StatusNotFound {
		return nil, nil // the registry has no such repository
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list what refers to %s: %w", r.name, to.Digest, err)
	}
	if len(list) > maxReferrers {
		return nil, fmt.Errorf("%s: %d artifacts refer to %s, expected at most %d", r.name, len(list),
			to.Digest,
			maxReferrers)
	}
	all, err := each(list, func(desc ocispec.Descriptor) (referrer, error) {
		m, err := r.manifest(ctx, desc)
		return referrer{desc.Digest, m}, err
	})
	return slices.DeleteFunc(all, func(m referrer) bool {
		of := m.manifest.Subject
		return m.manifest.ArtifactType != artifact || of == nil || of.Digest != to.Digest
	}), err
}

// each calls read for each element of a list, several at once. It returns the results in order, and all
// errors.
func each[From, To any](list []From, read func(From) (To, error)) ([]To, error) {
	type result struct {
		value To
		err   error
	}
	results := make([]result, len(list))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, from := range list {
		group.Go(func() error {
			results[i].value, results[i].err = read(from)
			return nil
		})
	}
	_ = group.Wait()
	var good []To
	var errs []error
	for _, r := range results {
		if errs = append(errs, r.err); r.err == nil {
			good = append(good, r.value)
		}
	}
	return good, errors.Join(errs...)
}

// manifest fetches and checks a manifest.
func (r *Remote) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	data, err := r.document(ctx, desc)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: manifest %s: %w", r.name, desc.Digest, err)
	}
	return m, nil
}

// document fetches a small content and checks its digest and size.
func (r *Remote) document(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxDocument {
		return nil, fmt.Errorf("%s: %s %s has %d bytes, expected at most %d", r.name, desc.MediaType,
			desc.Digest, desc.Size, maxDocument)
	}
	if err := checkDigest(desc.Digest); err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	data, err := content.FetchAll(ctx, r.target, desc)
	if err != nil {
		return nil, fmt.Errorf("%s: %s %s: %w", r.name, desc.MediaType, desc.Digest, err)
	}
	return data, nil
}

// checkDigest rejects a digest that is not a SHA-256.
func checkDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("invalid digest %q: expected sha256:HEX", d)
	}
	return nil
}

// retries is how often a body that ends early is continued.
const retries = 4

// body is the content of a descriptor. After an error it continues where it was.
type body struct {
	ctx   context.Context
	from  content.Fetcher
	desc  ocispec.Descriptor
	at    int64
	tries int
	rc    io.ReadCloser // nil: none is open
}

// open returns the content of a descriptor, from an offset in bytes. The caller checks the digest.
func (r *Remote) open(ctx context.Context, desc ocispec.Descriptor, at int64) io.ReadCloser {
	return &body{ctx: ctx, from: r.target, desc: desc, at: at}
}

func (b *body) Read(p []byte) (int, error) {
	for {
		if b.at == b.desc.Size {
			return 0, io.EOF
		}
		err := b.connect()
		if err == nil {
			var n int
			n, err = b.rc.Read(p[:min(int64(len(p)), b.desc.Size-b.at)])
			b.at += int64(n)
			if n > 0 {
				return n, nil
			}
		}
		if err == nil {
			continue
		}
		b.Close()
		if b.ctx.Err() != nil {
			return 0, context.Cause(b.ctx)
		}
		if errors.Is(err, errdef.ErrNotFound) {
			return 0, ErrNotFound
		}
		if b.tries++; b.tries > retries {
			return 0, fmt.Errorf("blob %s: ended after %d of %d bytes: %w", b.desc.Digest, b.at, b.desc.Size,
				err)
		}
	}
}

// connect opens the content at the current offset.
func (b *body) connect() error {
	if b.rc != nil {
		return nil
	}
	rc, err := b.from.Fetch(b.ctx, b.desc)
	if err != nil {
		return err
	}
	if s, ok := rc.(io.Seeker); ok && b.at > 0 {
		_, err = s.Seek(b.at, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, rc, b.at)
	}
	if err != nil {
		rc.Close()
		return err
	}
	b.rc = rc
	return nil
}

func (b *body) Close() error {
	if b.rc == nil {
		return nil
	}
	err := b.rc.Close()
	b.rc = nil
	return err
}
