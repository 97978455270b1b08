package image

import (
	"fmt"
	"os"
)

// nameless creates a temporary file that no other program finds, and that is gone when it is closed or the
// program dies.
func nameless(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	if f, err := createNameless(dir); err == nil {
		return f, nil
	}
	f, err := os.CreateTemp(dir, ".neb-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a temporary file for layers in TMPDIR (%s): %w", dir, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
