package lock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
)

// FileName is the name of the lock file in neb's source tree.
const FileName = "neb.lock"

// Find returns the path of the lock file of neb's source tree: the one in $NEB_SOURCE if that is set, else
// the nearest one in the working directory or above it.
func Find() (string, error) {
	if dir := os.Getenv("NEB_SOURCE"); dir != "" {
		return filepath.Join(dir, FileName), nil
	}
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, FileName)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s in %s or above it: give --lock", FileName, start)
		}
	}
}

// ParseFile is [Parse] for a file.
func ParseFile(name string) (*Lock, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

// WriteFile replaces a lock file atomically. It fails, and leaves the file as it is, if l is invalid or
// incomplete.
func WriteFile(name string, l *Lock) error {
	data := l.Bytes()
	if _, err := Read(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("%s was not changed: the new lock is invalid: %w", name, err)
	}
	return atomicfile.WriteBytes(name, data)
}
