package output

import (
	"context"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
)

// Build builds components by architecture.
func Build(ctx context.Context, b *component.Builder, wanted map[string][]string) ([]Set, error) {
	var built []Set
	for _, arch := range component.Archs {
		if len(wanted[arch]) == 0 {
			continue
		}
		outputs, err := b.Build(ctx, arch, wanted[arch]...)
		if err != nil {
			return nil, err
		}
		built = append(built, Set{Arch: arch, Outputs: outputs})
	}
	return built, nil
}
