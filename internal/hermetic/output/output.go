// Package output writes and compares the output directory of neb build: for each architecture a directory
// of blobs, as nitro-cli expects them, and next to it their hashes and provenance. It builds nothing (see
// component).
//
//	x86_64/{bzImage,bzImage.config,cmdline,init,linuxkit,nsm.ko}
//	aarch64/{Image,Image.config,cmdline,init,linuxkit,nsm.ko}
//	x86_64.provenance.json, aarch64.provenance.json
//	SHA256SUMS
package output

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Set is what was built for one architecture.
type Set struct {
	Arch    string
	Outputs []component.Output
}

// Provenance lists the inputs of an architecture's blobs, by component.
type Provenance struct {
	Schema     int                `json:"schema"` // 1
	Arch       string             `json:"arch"`
	Components []component.Record `json:"components"`
}

// SumsName is the file with the SHA-256 of every blob, in the format of sha256sum(1).
const SumsName = "SHA256SUMS"

// ProvenanceName returns the name of the file with an architecture's [Provenance].
func ProvenanceName(arch string) string { return arch + ".provenance.json" }

// names returns the names of all blobs of an architecture, sorted.
func names(arch string) []string {
	var all []string
	for _, c := range component.Names {
		all = append(all, component.Files(c, arch)...)
	}
	slices.Sort(all)
	return all
}

// executable lists the blobs with mode 0755.
var executable = []string{"init", "linuxkit"}

func mode(name string) fs.FileMode {
	if slices.Contains(executable, name) {
		return 0o755
	}
	return 0o644
}

// Write writes built components to dir. It keeps the blobs of components that are not in sets. It replaces
// the directory of each architecture atomically: if this process is killed, the directory is the old one or
// the new one.
func Write(dir string, sets []Set) error {
	err := write(dir, sets)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("output %s: %w; free space, or choose another disk with --output", dir, err)
	}
	if err != nil {
		return fmt.Errorf("output %s: %w", dir, err)
	}
	return nil
}

// Check returns an error if [Write] cannot write to dir. Call it before the build.
func Check(dir string) error {
	if err := check(dir); err != nil {
		return fmt.Errorf("output %s: %w", dir, err)
	}
	return nil
}

func check(dir string) error {
	above := dir // or its nearest existing parent
	info, err := os.Stat(above)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(above) != above {
		above = filepath.Dir(above)
		info, err = os.Stat(above)
	}
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("expected a directory, found a file")
	}
	if err := unix.Access(above, unix.W_OK); err != nil {
		return fmt.Errorf("%s is not writable: %w", above, err)
	}
	if above == dir {
		if _, err := atomicfile.Target(dir); err != nil {
			return err
		}
	}
	if err := checkSums(filepath.Join(dir, SumsName)); err != nil {
		return err
	}
	for _, arch := range component.Archs { // SHA256SUMS lists all
		if _, err := present(filepath.Join(dir, arch), arch); err != nil {
			return err
		}
	}
	return nil
}

// checkSums rejects a checksum file that neb did not write, because Write would replace it.
func checkSums(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		_, name, _ := strings.Cut(line, "  ")
		arch, file := filepath.Split(name)
		if arch = strings.TrimSuffix(arch, "/"); !slices.Contains(component.Archs, arch) ||
			!slices.Contains(names(arch), file) {
			return fmt.Errorf("%s was not written by neb: it lists %q; "+
				"move it, or choose another directory with --output", path, name)
		}
	}
	return nil
}

// present returns the names of the blobs in a directory. Any other file is an error, because Write would
// remove it.
func present(dir, arch string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var have []string
	for _, e := range entries {
		if !slices.Contains(names(arch), e.Name()) || !e.Type().IsRegular() {
			return nil, fmt.Errorf("%s was not written by neb: expected only %s; "+
				"move it, or choose another directory with --output",
				filepath.Join(dir, e.Name()), strings.Join(names(arch), ", "))
		}
		have = append(have, e.Name())
	}
	return have, nil
}

func write(dir string, sets []Set) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	dir, err := atomicfile.Target(dir) // not what another user made in /tmp
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := clean(dir); err != nil {
		return err
	}
	for _, set := range sets {
		if err := exchange(dir, set); err != nil {
			return err
		}
		if err := writeProvenance(dir, set); err != nil {
			return err
		}
	}
	sums, err := sums(dir)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, SumsName), sums, 0o644); err != nil {
		return err
	}
	return d.Sync()
}

// newMark is the prefix of temporary names. While the directory is locked, such a file is a leftover of a
// killed process.
const newMark = ".neb-new-"

func clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), newMark) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// exchange replaces the directory of an architecture.
func exchange(dir string, set Set) error {
	old := filepath.Join(dir, set.Arch)
	have, err := present(old, set.Arch)
	if err != nil {
		return err
	}
	from := map[string]string{} // source by name of the blob
	for _, name := range have {
		from[name] = filepath.Join(old, name)
	}
	same := true
	for _, o := range set.Outputs {
		for _, f := range o.Files {
			same = same && isFile(filepath.Join(old, f.Name), f)
			from[f.Name] = filepath.Join(o.Dir, f.Name)
		}
	}
	if same {
		return nil
	}
	fresh := filepath.Join(dir, newMark+set.Arch)
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for name, path := range from {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := replace(filepath.Join(fresh, name), data, mode(name)); err != nil {
			return err
		}
	}
	err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, old, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.ENOENT): // there is no old directory
		return os.Rename(fresh, old)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		// The file system cannot exchange names: for a moment there is no directory.
		if err := os.Rename(old, filepath.Join(dir, newMark+"old-"+set.Arch)); err != nil {
			return err
		}
		if err := os.Rename(fresh, old); err != nil {
			return err
		}
	case err != nil:
		return &os.PathError{Op: "exchange", Path: old, Err: err}
	}
	return clean(dir)
}

// isFile reports whether the file at path has the content and mode of f.
func isFile(path string, f component.File) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Size() != f.Size || info.Mode() != mode(f.Name) {
		return false
	}
	sum, _, err := stream.SHA256(context.Background(), path)
	return err == nil && sum == f.SHA256
}

// writeProvenance writes the records of set, and keeps those of other components whose blobs are unchanged.
func writeProvenance(dir string, set Set) error {
	path := filepath.Join(dir, ProvenanceName(set.Arch))
	records := map[string]component.Record{}
	if text, err := os.ReadFile(path); err == nil {
		var old Provenance
		if err := json.Unmarshal(text, &old); err == nil {
			for _, r := range old.Components {
				records[r.Component] = r
			}
		}
	}
	for _, o := range set.Outputs {
		records[o.Component] = o.Record
	}
	p := Provenance{Schema: 1, Arch: set.Arch}
	for _, name := range component.Names {
		r, ok := records[name]
		for _, f := range r.Files {
			ok = ok && isFile(filepath.Join(dir, set.Arch, f.Name), f)
		}
		if ok {
			p.Components = append(p.Components, r)
		}
	}
	text, err := json.MarshalIndent(p, "", "\t")
	if err != nil {
		return err
	}
	return replace(path, append(text, '\n'), 0o644)
}

// sums returns the content of SHA256SUMS for the blobs in dir.
func sums(dir string) ([]byte, error) {
	var text bytes.Buffer
	for _, arch := range slices.Sorted(slices.Values(component.Archs)) {
		have, err := present(filepath.Join(dir, arch), arch)
		if err != nil {
			return nil, err
		}
		for _, name := range have {
			sum, _, err := stream.SHA256(context.Background(), filepath.Join(dir, arch, name))
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&text, "%s  %s/%s\n", sum, arch, name)
		}
	}
	return text.Bytes(), nil
}

// replace writes a file atomically, unless it has that content already.
func replace(path string, content []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return atomicfile.Write(path, func(f *os.File) error {
		_, err := f.Write(content)
		return errors.Join(err, f.Chmod(mode)) // regardless of the umask
	})
}
