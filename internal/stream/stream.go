// Package stream reads files and streams with limits: of a context, of size and of time. It does not copy,
// decode or buffer.
package stream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
)

// Reader returns a reader of r that fails with the cause of ctx once ctx is done. A Read of r that blocks is
// not interrupted.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// Writer returns a writer to w that fails with the cause of ctx once ctx is done. A Write of w that blocks is
// not interrupted.
func Writer(ctx context.Context, w io.Writer) io.Writer { return writer{ctx, w} }

type writer struct {
	ctx context.Context
	w   io.Writer
}

func (w writer) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.w.Write(p)
}

// interval is the number of bytes that the kernel copies between two looks at the context.
const interval = 16 << 20

// ReadFrom lets the kernel copy the bytes if both sides are files.
func (w writer) ReadFrom(r io.Reader) (n int64, err error) {
	left := int64(math.MaxInt64)
	if l, ok := r.(*io.LimitedReader); ok { // os.File.ReadFrom sees through one limit only
		r, left = l.R, l.N
	}
	for left > 0 {
		if w.ctx.Err() != nil {
			return n, context.Cause(w.ctx)
		}
		part := min(left, interval)
		k, err := io.Copy(w.w, &io.LimitedReader{R: r, N: part})
		n, left = n+k, left-k
		if err != nil || k < part {
			return n, err
		}
	}
	return n, nil
}

// ReadFile reads a whole file into memory. It fails if the file is larger than most bytes, and then reads no
// further.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s: file is larger than %d bytes", path, most)
	}
	return b, nil
}

// SHA256 returns the SHA-256 of a file, in lower-case hexadecimal digits, and its size in bytes. It ends with
// the cause of ctx once ctx is done.
func SHA256(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	// A buffer eight times io.Copy's: the system calls would cost as much as the hash.
	size, err = io.CopyBuffer(struct{ io.Writer }{h}, Reader(ctx, f), make([]byte, 256<<10))
	if err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
