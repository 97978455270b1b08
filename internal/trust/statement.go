package trust

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
)

// Types and identifiers of a statement, explained in docs/sharing.md.
const (
	home      = "https://github.com/nitro-enclaves-bootstrap/neb"
	buildType = home + "/blob/main/docs/sharing.md#build-type"
	builderID = home + "/blob/main/docs/sharing.md#builder"
)

// Output is what a statement says: the owner of its key built these files from inputs with this key.
type Output struct {
	Key       string    // of the store: it contains the hash of all inputs
	Manifest  string    // SHA-256 of what a remote attaches the statement to; "" for none; not checked
	Component string    // as in "kernel"
	Arch      string    // as in "x86_64"
	Files     []File    // in the component's order
	Inputs    []Input   // in the order of the component's record
	Host      string    // architecture of the build machine, as Debian names it
	Isolation string    // of the build
	Time      time.Time // when the build or the comparison ended; not checked
}

// File is a file of an output.
type File struct{ Name, SHA256 string }

// Input is an input of an output.
type Input struct{ Name, Version, SHA256 string }

// machine describes the machine that built, as explained in docs/sharing.md.
type machine struct {
	Host      string `json:"host"`
	Isolation string `json:"isolation"`
}

// Sign returns the signed statement: an in-toto statement with SLSA provenance in a DSSE envelope.
func (o Output) Sign(key crypto.Signer) ([]byte, error) {
	s := sign.NewStatement[machine](buildType, builderID)
	if o.Manifest != "" { // cosign requires it
		s.Subject = append(s.Subject, sign.Resource{
			Name: o.Key, Digest: map[string]string{"sha256": o.Manifest}})
	}
	for _, f := range o.Files {
		s.Subject = append(s.Subject, sign.Resource{Name: f.Name,
			Digest: map[string]string{"sha256": f.SHA256}})
	}
	def := &s.Predicate.BuildDefinition
	def.ExternalParameters = map[string]any{"component": o.Component, "architecture": o.Arch, "key": o.Key}
	def.InternalParameters = machine{o.Host, o.Isolation}
	for _, in := range o.Inputs {
		r := sign.Resource{Name: in.Name, Digest: map[string]string{"sha256": in.SHA256}}
		if in.Version != "" {
			r.Name += " " + in.Version
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies, r)
	}
	s.Predicate.RunDetails.Metadata = &sign.Metadata{FinishedOn: o.Time.UTC().Truncate(time.Second)}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	e, err := sign.Seal(sign.StatementType, payload, key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// parse reads the statement in an envelope. It leaves out inputs and manifest: the key determines them.
func parse(payload []byte) (Output, error) {
	s, err := sign.ParseStatement[machine](buildType, payload)
	if err != nil {
		return Output{}, fmt.Errorf("statement: %w", err)
	}
	def := s.Predicate.BuildDefinition
	text := func(name string) string {
		value, _ := def.ExternalParameters[name].(string)
		return value
	}
	o := Output{
		Key: text("key"), Component: text("component"), Arch: text("architecture"),
		Host: def.InternalParameters.Host, Isolation: def.InternalParameters.Isolation,
	}
	if m := s.Predicate.RunDetails.Metadata; m != nil {
		o.Time = m.FinishedOn
	}
	for _, r := range s.Subject {
		if r.Name == o.Key {
			continue
		}
		sum := r.Digest["sha256"]
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			return Output{}, fmt.Errorf("statement: subject %q: expected a SHA-256, found %q", r.Name, sum)
		}
		o.Files = append(o.Files, File{r.Name, sum})
	}
	return o, nil
}
