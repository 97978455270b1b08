package component

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Input is one input of a component.
type Input struct {
	Kind    string `json:"kind"` // "package", "kernel source", "patch", "source file", …
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Size    int64  `json:"size,omitempty"` // bytes, of a download
	SHA256  string `json:"sha256"`
}

// File is one file of a component.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Record describes an output and its inputs.
type Record struct {
	Component string       `json:"component"`
	Arch      string       `json:"arch,omitempty"`
	Isolation sandbox.Mode `json:"isolation"` // of the build that made it
	Files     []File       `json:"files,omitempty"`
	Inputs    []Input      `json:"inputs"`
}

// keyOf returns the hash of the inputs of a component.
func keyOf(name, arch string, inputs []Input) string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(Record{Component: name, Arch: arch, Inputs: inputs}); err != nil {
		panic(err) // a Record consists of strings and numbers
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newRecord returns the record of the output in dir. All files of the component must be there.
func newRecord(ctx context.Context, j job, mode sandbox.Mode, dir string) (Record, error) {
	rec := Record{Component: j.name, Arch: j.arch, Isolation: mode, Inputs: j.inputs}
	for _, name := range Files(j.name, j.arch) {
		sum, size, err := stream.SHA256(ctx, filepath.Join(dir, name))
		if err != nil {
			return rec, err
		}
		rec.Files = append(rec.Files, File{Name: name, Size: size, SHA256: sum})
	}
	return rec, nil
}

func (r Record) write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// lockedInputs returns files of the lock as inputs.
func lockedInputs(kind string, files ...lock.File) []Input {
	var inputs []Input
	for _, f := range files {
		inputs = append(inputs, Input{Kind: kind, Name: f.Name, Version: f.Version, Size: f.Size,
			SHA256: f.SHA256})
	}
	return inputs
}

// textInput returns a text of neb or its user as an input.
func textInput(kind, name, text string) Input {
	return Input{Kind: kind, Name: name, SHA256: hashText(text)}
}

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
