package pack

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// MaxMetadata is the largest file with a user's own metadata, in bytes. nitro-cli has the same limit.
const MaxMetadata = 4096

// ReadMetadata reads a user's own metadata from a file: a JSON object or null, of at most [MaxMetadata]
// bytes.
func ReadMetadata(path string) (json.RawMessage, error) {
	text, err := stream.ReadFile(path, MaxMetadata)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil && string(bytes.TrimSpace(text)) != "null" {
		return nil, fmt.Errorf("%s: expected a JSON object: %w", path, err)
	}
	return text, nil
}
