//go:build !linux

package atomicfile

import (
	"errors"
	"os"
)

func createUnnamed(string) *os.File { return nil }

func link(*os.File, string) error { return errors.ErrUnsupported }

func trust(string, os.FileInfo) error { return nil }

func chown(*os.File, os.FileInfo) error { return nil }
