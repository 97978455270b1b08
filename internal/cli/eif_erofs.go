package cli

import (
	"context"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

// erofsTools runs programs of the locked erofs-utils in the sandbox. The store is opened when the first one is needed.
type erofsTools struct {
	flags *buildFlags
	s     streams
	b     *component.Builder
	done  func()
}

func (t *erofsTools) Work(ctx context.Context) (string, error) {
	if t.b == nil {
		var err error
		if t.b, t.done, err = t.flags.builder(t.s); err != nil {
			return "", err
		}
	}
	return t.b.Store.Work(ctx)
}

func (t *erofsTools) Run(ctx context.Context, work string, args ...string) error {
	return t.b.Tool(ctx, []string{lock.EROFS}, work, args...)
}

func (t *erofsTools) close() {
	if t.done != nil {
		t.done()
	}
}
