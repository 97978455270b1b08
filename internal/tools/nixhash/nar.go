package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// narHash returns the SHA-256 of a directory of plain files as a Nix archive, which Nix compares with an
// outputHash of mode "recursive". The format is figure 5.2 of Eelco Dolstra's thesis "The Purely Functional
// Software Deployment Model".
func narHash(dir string) (string, error) {
	n := nar{sha256.New()}
	n.strings("nix-archive-1")
	if err := n.node(dir); err != nil {
		return "", err
	}
	return hex.EncodeToString(n.h.Sum(nil)), nil
}

type nar struct{ h hash.Hash }

// strings writes each string as its length (64 bits, little-endian), its bytes, and zeros up to a multiple
// of 8.
func (n nar) strings(list ...string) {
	for _, s := range list {
		n.length(int64(len(s)))
		io.WriteString(n.h, s) //nolint:errcheck // a hash does not fail
		n.pad(int64(len(s)))
	}
}

func (n nar) length(l int64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(l))
	n.h.Write(b[:])
}

func (n nar) pad(l int64) { n.h.Write(make([]byte, -l&7)) }

func (n nar) node(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	n.strings("(", "type")
	switch {
	case info.IsDir():
		n.strings("directory")
		entries, err := os.ReadDir(path) // sorted by bytes, as the format requires
		if err != nil {
			return err
		}
		for _, e := range entries {
			n.strings("entry", "(", "name", e.Name(), "node")
			if err := n.node(filepath.Join(path, e.Name())); err != nil {
				return err
			}
			n.strings(")")
		}
	case info.Mode().IsRegular() && info.Mode()&0o111 == 0:
		n.strings("regular", "contents")
		if err := n.contents(path, info.Size()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: expected a directory or a plain file, found %v", path, info.Mode())
	}
	n.strings(")")
	return nil
}

func (n nar) contents(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	n.length(size)
	copied, err := io.Copy(n.h, f)
	if err != nil {
		return err
	}
	if copied != size {
		return fmt.Errorf("%s: size changed during reading", path)
	}
	n.pad(size)
	return nil
}
