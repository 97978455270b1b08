package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
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

// decode is [json.Unmarshal] for a document within the bounds.
func decode(b []byte, to any) error {
	if err := countTokens(b); err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func countTokens(b []byte) error {
	in := json.NewDecoder(bytes.NewReader(b))
	for range maxTokens + 1 {
		if _, err := in.Token(); err != nil {
			return nil // the end, or a mistake that json.Unmarshal describes better
		}
	}
	return fmt.Errorf("document has more than %d JSON values", maxTokens)
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
		err = countTokens(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest from the registry: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(raw))
	return response, nil
}
