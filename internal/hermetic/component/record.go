package component

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
)

// Input is one thing that went into a component.
type Input struct {
	Kind    string `json:"kind"` // "package", "kernel source", "patch", "source file", …
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Size    int64  `json:"size,omitempty"` // bytes, of what was fetched
	SHA256  string `json:"sha256"`
}

// File is one file of a component.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Record says what an output is and what it was made of.
type Record struct {
	Component string       `json:"component"`
	Arch      string       `json:"arch,omitempty"`
	Isolation sandbox.Mode `json:"isolation"` // of the build that made it
	Files     []File       `json:"files,omitempty"`
	Inputs    []Input      `json:"inputs"`
}

// keyOf is the hash of what goes into a component.
func keyOf(name, arch string, inputs []Input) string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(Record{Component: name, Arch: arch, Inputs: inputs}); err != nil {
		panic(err) // strings and numbers only
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newRecord is the record of what is in dir. Where a component has a list of files, it must be exactly those.
func newRecord(j job, mode sandbox.Mode, dir string) (Record, error) {
	rec := Record{Component: j.name, Arch: j.arch, Isolation: mode, Inputs: j.inputs}
	for _, name := range Files(j.name, j.arch) {
		sum, size, err := hashFile(filepath.Join(dir, name))
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

// lockedInputs are files of the lock as inputs.
func lockedInputs(kind string, files ...lock.File) []Input {
	var inputs []Input
	for _, f := range files {
		inputs = append(inputs, Input{Kind: kind, Name: f.Name, Version: f.Version, Size: f.Size, SHA256: f.SHA256})
	}
	return inputs
}

// textInput is a text that neb or its user brings.
func textInput(kind, name, text string) Input {
	return Input{Kind: kind, Name: name, SHA256: hashText(text)}
}

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// hashTree is the hash of a directory: the names, permissions to execute, and content of all in it but .git.
func hashTree(ctx context.Context, dir string) (string, error) {
	var list bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == ".git" {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch e.Type() {
		case fs.ModeDir:
			fmt.Fprintf(&list, "dir %q\n", rel)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, "link %q %q\n", rel, target)
		case 0:
			info, err := e.Info()
			if err != nil {
				return err
			}
			sum, _, err := hashFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, "file %q %t %s\n", rel, info.Mode()&0o100 != 0, sum)
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a link", path)
		}
		return nil
	})
	return hashText(list.String()), err
}

// oneLine keeps a list within an error message.
func oneLine(list []string) string { return strings.Join(list, ", ") }
