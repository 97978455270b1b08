package release

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/ulikunitz/xz"
)

// top is the directory that everything in the archive stands in.
const top = "enclaves-blobs/"

// pack makes the archive of blobs, which are in the order of [Blobs]. No clock, user or machine is in it.
func pack(blobs []file) ([]byte, error) {
	var out bytes.Buffer
	compressed, err := xz.WriterConfig{DictCap: 8 << 20, CheckSum: xz.SHA256}.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	dir := func(name string) error {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	}
	if err := dir(top); err != nil {
		return nil, err
	}
	last := ""
	for i, b := range Blobs() {
		if b.Arch != last {
			if err := dir(top + b.Arch + "/"); err != nil {
				return nil, err
			}
			last = b.Arch
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: top + b.Path(), Mode: int64(b.Mode), Size: int64(len(blobs[i].data)),
			ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(blobs[i].data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// maxBlob bounds what is read of one entry, in bytes: an archive is somebody else's until it is verified.
const maxBlob = 256 << 20

// unpack reads an archive and checks that it holds exactly the blobs of a release, in their order and with their modes.
// Every difference is in the error.
func unpack(archive []byte) ([]file, error) {
	plain, err := xz.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("not an xz file: %w", err)
	}
	r := tar.NewReader(plain)
	want := map[string]Blob{}
	for _, b := range Blobs() {
		want[top+b.Path()] = b
	}
	dirs := []string{top}
	for _, arch := range Architectures() {
		dirs = append(dirs, top+arch+"/")
	}
	var wrong []error
	found := map[string][]byte{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("damaged: %w", err)
		}
		if h.Typeflag == tar.TypeDir && slices.Contains(dirs, h.Name) {
			continue
		}
		b, known := want[h.Name]
		switch _, twice := found[h.Name]; {
		case !known:
			wrong = append(wrong, fmt.Errorf("%s: is no part of a release", h.Name))
			continue
		case twice:
			wrong = append(wrong, fmt.Errorf("%s: is there twice", h.Name))
			continue
		case h.Typeflag != tar.TypeReg:
			wrong = append(wrong, fmt.Errorf("%s: expected a regular file, found type %q", h.Name, h.Typeflag))
			continue
		case fs.FileMode(h.Mode) != b.Mode:
			wrong = append(wrong, fmt.Errorf("%s: expected mode %#o, found %#o", h.Name, b.Mode, h.Mode))
		case h.Size > maxBlob:
			return nil, fmt.Errorf("%s: %d bytes, at most %d are expected", h.Name, h.Size, maxBlob)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%s: damaged: %w", h.Name, err)
		}
		found[h.Name] = data
	}
	// The checksum of the xz stream is checked at its end only.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	var files []file
	for _, b := range Blobs() {
		data, there := found[top+b.Path()]
		if !there {
			wrong = append(wrong, fmt.Errorf("%s: is missing", top+b.Path()))
			continue
		}
		files = append(files, file{b.Path(), data})
	}
	return files, errors.Join(wrong...)
}
