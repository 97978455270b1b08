package linuxkit

import (
	"bufio"
	"context"
	"io"
)

// stoppable is a writer that fails when its context is done.
type stoppable struct {
	ctx context.Context
	w   io.Writer
}

func (s stoppable) Write(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.w.Write(p)
}

// atOnce is how many bytes the kernel copies before the context is looked at again.
const atOnce = 16 << 20

// ReadFrom lets the kernel copy where both sides are files.
func (s stoppable) ReadFrom(r io.Reader) (n int64, err error) {
	left := int64(1<<63 - 1)
	if l, ok := r.(*io.LimitedReader); ok { // one limit alone is seen through by os.File.ReadFrom
		r, left = l.R, l.N
	}
	for left > 0 {
		if s.ctx.Err() != nil {
			return n, context.Cause(s.ctx)
		}
		part := min(left, atOnce)
		k, err := io.Copy(s.w, &io.LimitedReader{R: r, N: part})
		n, left = n+k, left-k
		if err != nil || k < part {
			return n, err
		}
	}
	return n, nil
}

// stream lets write fill a stream that may block for ever, as a pipe does that nobody reads: when the context is done it
// returns all the same, and leaves a goroutine with what it had in hand.
func stream(ctx context.Context, to io.Writer, write func(io.Writer) error) error {
	r, w := io.Pipe()
	defer context.AfterFunc(ctx, func() { r.CloseWithError(context.Cause(ctx)) })()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, r)
		r.CloseWithError(err)
		copied <- err
	}()
	b := bufio.NewWriterSize(w, 256<<10)
	err := write(b)
	if err == nil {
		err = b.Flush()
	}
	w.CloseWithError(err)
	if err != nil {
		return err
	}
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
