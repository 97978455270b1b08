package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"

	"github.com/nitro-enclaves-bootstrap/neb/internal/jsontoken"
)

// Bounds of the JSON documents of images: indexes, manifests and configurations. They come from strangers,
// and a short text can stand for a large value: "{}" in a list of descriptors takes fifty times as many bytes
// in memory.
const (
	maxDocument = 4 << 20 // bytes; registries accept no larger manifests
	// maxTokens is the largest number of names, values, braces and brackets. A descriptor with everything
	// that tools write has 20. The most expensive ones take about 70 bytes of memory each.
	maxTokens = 100_000
)

// readDocument reads a document of at most maxDocument bytes.
func readDocument(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("document is larger than %d bytes", maxDocument)
	}
	return b, err
}

// decode is [json.Unmarshal] for a document within the bounds that all readers read alike.
func decode(b []byte, to any) error {
	if err := checkDocument(b); err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// userNames are the objects whose names are the user's own: in all others, Go ignores the case of names.
var userNames = []string{"labels", "annotations", "volumes"}

// checkDocument counts the values of a document, and rejects a name that is twice in an object, also in
// another case. Go's decoder, and so Docker's and Podman's, takes the last of them or merges all; others take
// the first or the one in the right case, or reject the document (docs/parsers.md).
func checkDocument(b []byte) error {
	count := 0
	for token, err := range jsontoken.All(b, userNames...) {
		switch count++; {
		case err != nil:
			return nil // json.Unmarshal describes the mistake better
		case token.Repeated:
			return fmt.Errorf("%.40q is twice in a JSON object: other programs may read another value",
				token.Token)
		case count > maxTokens:
			return fmt.Errorf("document has more than %d JSON values", maxTokens)
		}
	}
	return nil
}

// boundedManifests checks the manifests in a registry's responses before go-containerregistry decodes them.
type boundedManifests struct{ http.RoundTripper }

func (t boundedManifests) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(req)
	if err != nil || response.StatusCode != http.StatusOK || req.Method != http.MethodGet ||
		path.Base(path.Dir(req.URL.Path)) != "manifests" {
		return response, err
	}
	raw, err := readDocument(response.Body)
	response.Body.Close()
	if err == nil {
		err = checkDocument(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest from the registry: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(raw))
	return response, nil
}
