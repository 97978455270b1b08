//go:build !linux

package cli

import (
	"context"
	"errors"

	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
)

// A blobBuilder builds missing blobs and runs locked tools on Linux. Here it does nothing but fail.
type blobBuilder struct{}

func newBlobBuilder(streams, buildFlags) *blobBuilder { return &blobBuilder{} }

func (*blobBuilder) close() {}

func (*blobBuilder) blobs(context.Context, string, []string) (pack.Blobs, error) {
	return pack.Blobs{}, errors.New("building blobs needs Linux: give --blobs, or both --kernel and --init")
}

// Work implements inspect.Tools.
func (*blobBuilder) Work(context.Context) (string, error) {
	return "", errors.New("erofs images need Linux: erofs-utils runs in neb's sandbox")
}

// Run implements inspect.Tools.
func (*blobBuilder) Run(context.Context, string, ...string) error { return errors.ErrUnsupported }
