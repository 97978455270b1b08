package sign

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// StatementType is the media type of a [Statement] in an [Envelope].
const StatementType = "application/vnd.in-toto+json"

// Types of a [Statement] and its predicate.
const (
	inTotoV1 = "https://in-toto.io/Statement/v1"
	slsaV1   = "https://slsa.dev/provenance/v1"
)

// Statement is an in-toto statement v1 whose predicate is SLSA provenance v1
// (in-toto/attestation spec/v1/statement.md and slsa.dev/spec/v1.0/provenance). Machine describes the machine
// that built.
type Statement[Machine any] struct {
	Type          string              `json:"_type"`
	Subject       []Resource          `json:"subject"`
	PredicateType string              `json:"predicateType"`
	Predicate     Provenance[Machine] `json:"predicate"`
}

// NewStatement returns a statement without subjects. buildType and builder are URLs of pages that explain
// them.
func NewStatement[Machine any](buildType, builder string) Statement[Machine] {
	s := Statement[Machine]{Type: inTotoV1, PredicateType: slsaV1}
	s.Predicate.BuildDefinition.BuildType = buildType
	s.Predicate.RunDetails.Builder.ID = builder
	return s
}

// ParseStatement reads a statement. It rejects unknown fields, and statements of another build type.
func ParseStatement[Machine any](buildType string, data []byte) (Statement[Machine], error) {
	var s Statement[Machine]
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("not a statement of neb: %w", err)
	}
	for _, c := range []struct{ what, found, expected string }{
		{"_type", s.Type, inTotoV1},
		{"predicateType", s.PredicateType, slsaV1},
		{"buildType", s.Predicate.BuildDefinition.BuildType, buildType},
	} {
		if c.found != c.expected {
			return s, fmt.Errorf("%s: expected %q, found %q", c.what, c.expected, c.found)
		}
	}
	return s, nil
}

// Resource is an in-toto ResourceDescriptor.
type Resource struct {
	Name             string            `json:"name,omitempty"`
	URI              string            `json:"uri,omitempty"`
	Digest           map[string]string `json:"digest,omitempty"` // hexadecimal, by algorithm
	DownloadLocation string            `json:"downloadLocation,omitempty"`
}

// Provenance states how the subjects of a statement were made.
type Provenance[Machine any] struct {
	BuildDefinition BuildDefinition[Machine] `json:"buildDefinition"`
	RunDetails      RunDetails               `json:"runDetails"`
}

// BuildDefinition is the input of a build.
type BuildDefinition[Machine any] struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   Machine        `json:"internalParameters"`
	ResolvedDependencies []Resource     `json:"resolvedDependencies"`
}

// RunDetails is one run of a build.
type RunDetails struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
	Metadata   *Metadata  `json:"metadata,omitempty"`
	Byproducts []Resource `json:"byproducts,omitempty"`
}

// Metadata is the time of a run.
type Metadata struct {
	FinishedOn time.Time `json:"finishedOn"`
}
