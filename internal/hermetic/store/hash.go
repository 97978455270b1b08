package store

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
)

// parallelHashes is how many files are hashed at once.
var parallelHashes = runtime.GOMAXPROCS(0)

// hashFile returns the size in bytes and the SHA-256 of a file.
func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return n, hex.EncodeToString(h.Sum(nil)), err
}
