package inspect

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// Open opens an EIF and reads its structure. It rejects an invalid structure, and files that are not regular:
// a pipe would make it wait for a writer. The caller closes the second result.
func Open(path string) (*eif.File, *os.File, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	file, err := eif.Open(f, size)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, f, nil
}

// ReadFile is [Inspect] for a file. The caller closes the second result, after its last use of the report's
// File.
func ReadFile(ctx context.Context, path string, at time.Time) (*Report, *os.File, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	report, err := Inspect(ctx, f, size, at)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return report, f, nil
}

// Measure computes the registers of an EIF, and rejects one with a wrong checksum.
func Measure(ctx context.Context, path string) (eif.Measurements, error) {
	file, in, err := Open(path)
	if err != nil {
		return eif.Measurements{}, err
	}
	defer in.Close()
	m, err := Registers(ctx, file)
	if err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Registers is [Measure] for an open EIF.
func Registers(ctx context.Context, file *eif.File) (eif.Measurements, error) {
	pass, err := file.Measure(ctx)
	if err == nil {
		err = file.CheckCRC(pass)
	}
	if err != nil {
		return eif.Measurements{}, err
	}
	return pass.Measurements, nil
}

func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}
