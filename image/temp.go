package image

import (
	"crypto/rand"
	"fmt"
	"os"
)

// nameless creates a temporary file that is gone when it is closed or the program dies. An os.Root can remove
// an open file on Windows too.
func nameless(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		defer root.Close()
		name := ".neb-" + rand.Text()
		var f *os.File
		if f, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			if err = root.Remove(name); err == nil {
				return f, nil
			}
			f.Close()
		}
	}
	return nil, fmt.Errorf("cannot create a temporary file for layers in TMPDIR (%s): %w", dir, err)
}
