package release

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb"
)

// top is the directory of all files in the archive.
const top = "enclaves-blobs/"

// entry is one file of the archive.
type entry struct {
	file // its name is relative to top
	mode fs.FileMode
}

// licences returns the licence texts that must be distributed with the blobs.
func licences() ([]entry, error) {
	var all []entry
	err := fs.WalkDir(neb.Licences, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := neb.Licences.ReadFile(name)
		all = append(all, entry{file{name, data}, 0o644})
		return err
	})
	return all, err
}

// pack returns the archive of blobs, which are in the order of [Blobs], and of the licences, sorted by
// name. Times and owners are fixed.
func pack(blobs []file) ([]byte, error) {
	entries, err := licences()
	if err != nil {
		return nil, err
	}
	for i, b := range Blobs() {
		entries = append(entries, entry{file{b.Path(), blobs[i].data}, b.Mode})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })

	var out bytes.Buffer
	compressed, err := xz.WriterConfig{DictCap: 8 << 20, CheckSum: xz.SHA256}.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	header := func(kind byte, name string, mode fs.FileMode, size int) error {
		return w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Mode: int64(mode), Size: int64(size),
			ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	}
	made := map[string]bool{}
	for _, e := range entries {
		name := top + e.name
		for i := range name {
			if dir := name[:i+1]; name[i] == '/' && !made[dir] {
				if err := header(tar.TypeDir, dir, 0o755, 0); err != nil {
					return nil, err
				}
				made[dir] = true
			}
		}
		if err := header(tar.TypeReg, name, e.mode, len(e.data)); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// maxBlob is the maximum size in bytes of a blob, and of the average blob, that is read: the archive is not
// trusted yet.
const maxBlob = 256 << 20

// unpack returns the blobs in an archive, in the order of [Blobs]. It fails unless [pack] makes the same
// archive of them.
func unpack(archive []byte) ([]file, error) {
	plain, err := xz.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("not an xz file: %w", err)
	}
	var files []file
	index := map[string]int{}
	for i, b := range Blobs() {
		files = append(files, file{name: b.Path()})
		index[top+b.Path()] = i
	}
	for r := tar.NewReader(io.LimitReader(plain, int64(len(files))*maxBlob)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("damaged: %w", err)
		}
		if i, ok := index[h.Name]; ok {
			if files[i].data, err = io.ReadAll(io.LimitReader(r, maxBlob)); err != nil {
				return nil, fmt.Errorf("%s: damaged: %w", h.Name, err)
			}
		}
	}
	again, err := pack(files)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, archive) {
		return nil, errors.New("not what 'neb release' makes of the blobs in it: " +
			"other files, licences, modes, owners, times or bytes after the end")
	}
	return files, nil
}
