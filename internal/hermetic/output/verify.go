package output

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Finding is what [Compare] found about one file.
type Finding struct {
	Path     string `json:"path"` // relative to the output directory
	State    State  `json:"state"`
	Expected string `json:"expected,omitempty"` // SHA-256
	Found    string `json:"found,omitempty"`    // SHA-256

	Details []string `json:"details,omitempty"` // of files that another compiler made
}

// State is the result of comparing a file with the one that source and lock make.
type State string

const (
	Same       State = "same"
	Different  State = "different"
	Missing    State = "missing"
	Unexpected State = "unexpected" // a file that no component makes
	// a file of a kernel that another compiler made in another way
	Varies State = "varies"
)

// Components returns the components in dir, by architecture: those with at least one file in dir or in
// SHA256SUMS.
func Components(dir string) (map[string][]string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: expected a directory with x86_64 or aarch64 in it, found a file", dir)
	}
	listed, err := os.ReadFile(filepath.Join(dir, SumsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found := map[string][]string{}
	for _, arch := range component.Archs {
		for _, c := range component.Names {
			if slices.ContainsFunc(component.Files(c, arch), func(name string) bool {
				_, err := os.Lstat(filepath.Join(dir, arch, name))
				return err == nil || bytes.Contains(listed, []byte("  "+arch+"/"+name+"\n"))
			}) {
				found[arch] = append(found[arch], c)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no blobs found: "+
			"expected x86_64/bzImage, aarch64/Image, … as 'neb build' writes them", dir)
	}
	return found, nil
}

// Compare compares the blobs in dir, and SHA256SUMS if it exists, with what was built, file by file.
func Compare(dir string, built []Set) ([]Finding, error) {
	var findings []Finding
	for _, set := range built {
		expected := map[string]string{}
		for _, o := range set.Outputs {
			for _, f := range o.Files {
				expected[f.Name] = f.SHA256
			}
		}
		entries, err := os.ReadDir(filepath.Join(dir, set.Arch))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // then all of it is missing
			return nil, err
		}
		all := map[string]bool{}
		for _, e := range entries {
			all[e.Name()] = true
		}
		for name := range expected {
			all[name] = true
		}
		for name := range all {
			f := Finding{Path: set.Arch + "/" + name, Expected: expected[name]}
			path := filepath.Join(dir, set.Arch, name)
			info, err := os.Lstat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				f.State = Missing
			case err != nil:
				return nil, err
			case f.Expected == "" || !info.Mode().IsRegular():
				f.State = Unexpected
			default:
				if f.Found, _, err = stream.SHA256(context.Background(), path); err != nil {
					return nil, err
				}
				f.State = Different
				if f.Found == f.Expected {
					f.State = Same
				}
			}
			findings = append(findings, f)
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })

	listed, err := os.ReadFile(filepath.Join(dir, SumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return findings, nil
	}
	if err != nil {
		return nil, err
	}
	f := Finding{Path: SumsName, State: Same}
	var expected bytes.Buffer
	for _, file := range findings {
		if file.Expected != "" {
			fmt.Fprintf(&expected, "%s  %s\n", file.Expected, file.Path)
		}
	}
	if !bytes.Equal(listed, expected.Bytes()) {
		f.State = Different
	}
	return append(findings, f), nil
}
