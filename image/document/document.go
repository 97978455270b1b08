// Package document reads the JSON documents of images: indexes, manifests, configurations. All of them come from strangers,
// and a short text can stand for a large value in memory ("{}" of a list of descriptors becomes fifty times as many bytes), so that
// both are bounded. What a document says is judged by package image.
package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
)

const (
	// Max is how many bytes a document may have. Registries take no larger manifests; the index of a cache with thousands
	// of images has less.
	Max = 4 << 20
	// maxTokens is how many names, values, braces and brackets it may have: a descriptor with all that tools write has 20. The
	// dearest take some 70 bytes of memory each.
	maxTokens = 100_000
)

// ReadAll reads a document and refuses one of more than [Max] bytes.
func ReadAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, Max+1))
	if err == nil && len(b) > Max {
		err = fmt.Errorf("more than %d bytes, which no such document has", Max)
	}
	return b, err
}

// Decode is [json.Unmarshal] for a document, which it counts first.
func Decode(b []byte, to any) error {
	if err := check(b); err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func check(b []byte) error {
	if len(b) > Max {
		return fmt.Errorf("more than %d bytes, which no such document has", Max)
	}
	in := json.NewDecoder(bytes.NewReader(b))
	for range maxTokens + 1 {
		if _, err := in.Token(); err != nil {
			return nil // the end, or what Unmarshal says better
		}
	}
	return fmt.Errorf("more than %d JSON values, which no such document has", maxTokens)
}

// Transport checks the manifests that a registry answers with before a library decodes them.
type Transport struct{ Base http.RoundTripper }

// RoundTrip is of [http.RoundTripper].
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := t.Base.RoundTrip(req)
	if err != nil || answer.StatusCode != http.StatusOK || req.Method != http.MethodGet || path.Base(path.Dir(req.URL.Path)) != "manifests" {
		return answer, err
	}
	raw, err := ReadAll(answer.Body)
	answer.Body.Close()
	if err == nil {
		err = check(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("the registry's manifest: %w", err)
	}
	answer.Body = io.NopCloser(bytes.NewReader(raw))
	return answer, nil
}
