package component

import (
	"context"
	"encoding/json"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// hashTree returns the hash of a directory without .git and the top-level names in skip: names, permission to
// execute, and content.
func hashTree(ctx context.Context, dir string, skip ...string) (string, error) {
	entries, err := tree.List(ctx, dir, append(skip, ".git")...)
	for i := range entries {
		m := &entries[i].Mode
		*m &= fs.ModeType | 0o100
		if m.IsDir() {
			*m = fs.ModeDir
		}
	}
	text, jsonErr := json.Marshal(entries)
	if err == nil {
		err = jsonErr
	}
	return hashText(string(text)), err
}

// place writes texts as files of a directory of work.
func place(work, dir string, texts map[string]string) error {
	for name, text := range texts {
		if err := tree.WriteFile(filepath.Join(work, dir, name), 0o644, strings.NewReader(text)); err != nil {
			return err
		}
	}
	return nil
}
