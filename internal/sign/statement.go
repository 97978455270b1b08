package sign

import "time"

// StatementType is the media type of a [Statement] in an [Envelope].
const StatementType = "application/vnd.in-toto+json"

// Types of a [Statement] and its predicate.
const (
	InTotoV1 = "https://in-toto.io/Statement/v1"
	SLSAv1   = "https://slsa.dev/provenance/v1"
)

// Statement is an in-toto statement v1 whose predicate is SLSA provenance v1
// (in-toto/attestation spec/v1/statement.md and slsa.dev/spec/v1.0/provenance).
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Provenance `json:"predicate"`
}

// Resource is an in-toto ResourceDescriptor.
type Resource struct {
	Name             string            `json:"name,omitempty"`
	URI              string            `json:"uri,omitempty"`
	Digest           map[string]string `json:"digest,omitempty"` // hexadecimal, by algorithm
	DownloadLocation string            `json:"downloadLocation,omitempty"`
}

// Provenance states how the subjects of a statement were made.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is the input of a build.
type BuildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters"`
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
