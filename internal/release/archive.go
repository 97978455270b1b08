package release

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
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

// maxBlob is the maximum size in bytes of an entry that is read: the archive is not trusted yet.
const maxBlob = 256 << 20

// unpack reads an archive and checks that [pack] would write it: exactly the blobs and licences of a
// release, with their modes. The error lists every difference.
func unpack(archive []byte) ([]file, error) {
	plain, err := xz.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("not an xz file: %w", err)
	}
	texts, err := licences()
	if err != nil {
		return nil, err
	}
	want := map[string]entry{}
	for _, l := range texts {
		want[top+l.name] = l
	}
	for _, b := range Blobs() {
		want[top+b.Path()] = entry{file{b.Path(), nil}, b.Mode}
	}
	dirs := map[string]bool{}
	for name := range want {
		dir, _ := path.Split(name)
		dirs[dir] = true
	}
	const most = 50 // errors to list: the archive may have any number of files
	var wrong []error
	found := map[string][]byte{}
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("damaged: %w", err)
		}
		if h.Typeflag == tar.TypeDir && dirs[h.Name] {
			continue
		}
		if h.Size > maxBlob {
			return nil, fmt.Errorf("%s: %d bytes, expected at most %d", h.Name, h.Size, maxBlob)
		}
		if len(wrong) > most {
			return nil, errors.Join(append(wrong, errors.New("too many errors"))...)
		}
		e, known := want[h.Name]
		switch _, twice := found[h.Name]; {
		case !known:
			wrong = append(wrong, fmt.Errorf("%s: not part of a release", h.Name))
			continue
		case twice:
			wrong = append(wrong, fmt.Errorf("%s: duplicate", h.Name))
			continue
		case h.Typeflag != tar.TypeReg:
			wrong = append(wrong, fmt.Errorf("%s: expected a regular file, found type %q", h.Name,
				h.Typeflag))
			continue
		case fs.FileMode(h.Mode) != e.mode:
			wrong = append(wrong, fmt.Errorf("%s: expected mode %#o, found %#o", h.Name, e.mode, h.Mode))
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%s: damaged: %w", h.Name, err)
		}
		if e.data != nil && !bytes.Equal(data, e.data) {
			wrong = append(wrong, fmt.Errorf("%s: differs from the text embedded in this binary", h.Name))
		}
		found[h.Name] = data
	}
	// xz verifies its checksum at the end of the stream only.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, there := found[name]; !there {
			wrong = append(wrong, fmt.Errorf("%s: missing", name))
		}
	}
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	var files []file
	for _, b := range Blobs() {
		files = append(files, file{b.Path(), found[top+b.Path()]})
	}
	again, err := pack(files)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, archive) {
		return nil, errors.New("not as 'neb release' writes it: " +
			"directories, owners, times or bytes after the end differ")
	}
	return files, nil
}
