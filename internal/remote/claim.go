package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"
)

// Times of claims. Registries have no locks: the tag of a claim has the value of its last writer, and whoever
// reads its own value after all writers had time to write holds the claim.
var claimTimes = struct {
	settle time.Duration // between writing a claim and reading it
	beat   time.Duration // between two signs of life
	stale  time.Duration // a claim without a sign of life for this time is abandoned
	poll   time.Duration // between two looks at the claim of another
}{2 * time.Second, 20 * time.Second, 90 * time.Second, 3 * time.Second}

const (
	holderAnnotation = "vnd.neb.holder" // a random text; "" when the claim is given up
	beatAnnotation   = "vnd.neb.beat"   // a counter
)

// Claim waits until no other builder is building the output with a key, and claims it. done is called before
// each look; if it returns true, the output is there, and Claim returns a nil release. The caller calls
// release when it has pushed the output or failed.
//
// The protocol uses no clock but that of the waiting process.
func (r *Remote) Claim(ctx context.Context, key string, done func() (bool, error)) (
	release func(), err error) {
	if r.dir != "" {
		return func() {}, nil // one machine: the lock of the store is enough
	}
	tag, holder := "claim-"+key, rand.Text()
	var last string // the value of the tag
	var since time.Time
	for {
		if ok, err := done(); ok || err != nil {
			return nil, err
		}
		value, free, err := r.claim(ctx, tag)
		if err != nil {
			return nil, err
		}
		if value != last {
			last, since = value, time.Now()
		}
		if !free && time.Since(since) < claimTimes.stale {
			if err := sleep(ctx, claimTimes.poll); err != nil {
				return nil, err
			}
			continue
		}
		mine, err := r.beat(ctx, tag, holder, 0)
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, claimTimes.settle); err != nil {
			return nil, err
		}
		if value, _, err = r.claim(ctx, tag); err != nil {
			return nil, err
		}
		if value == mine {
			return r.hold(ctx, tag, holder), nil
		}
	}
}

// claim returns the digest of a claim, and whether nobody holds it.
func (r *Remote) claim(ctx context.Context, tag string) (value string, free bool, err error) {
	desc, err := r.target.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return "", true, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: claim %s: %w", r.name, tag, err)
	}
	m, err := r.manifest(ctx, desc)
	return desc.Digest.String(), m.Annotations[holderAnnotation] == "", err
}

// beat writes a claim and returns its digest.
func (r *Remote) beat(ctx context.Context, tag, holder string, n int) (string, error) {
	var desc ocispec.Descriptor
	err := r.pushing(ctx, func(t oras.GraphTarget) (err error) {
		desc, err = putManifest(ctx, t, typeClaim, nil,
			map[string]string{holderAnnotation: holder, beatAnnotation: strconv.Itoa(n)})
		if err != nil {
			return err
		}
		return t.Tag(ctx, desc, tag)
	})
	return desc.Digest.String(), err
}

// hold keeps a claim alive until release is called.
func (r *Remote) hold(ctx context.Context, tag, holder string) (release func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 1; sleep(ctx, claimTimes.beat) == nil; n++ {
			_, _ = r.beat(ctx, tag, holder, n) // the next one may succeed in time
		}
	}()
	return func() {
		cancel()
		<-ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimes.beat)
		defer cancel()
		_, _ = r.beat(ctx, tag, "", 0) // if it fails, others wait until it is stale
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
