package sandbox

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb/internal/progress"
)

// debWith is a package with a tree, compressed as its suffix says.
func debWith(t *testing.T, suffix string, tree []tar.Header) []byte {
	t.Helper()
	var data bytes.Buffer
	var compressor io.WriteCloser
	var err error
	switch suffix {
	case ".xz":
		compressor, err = xz.NewWriter(&data)
	case ".zst":
		compressor, err = zstd.NewWriter(&data)
	case ".gz":
		compressor = gzip.NewWriter(&data)
	default:
		compressor = struct {
			io.Writer
			io.Closer
		}{&data, io.NopCloser(nil)}
	}
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	for _, h := range tree {
		body := h.PAXRecords["body"] // not a record: the test's way to say it
		h.PAXRecords = nil
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if suffix == ".xz" || suffix == ".zst" || suffix == ".gz" {
		if err := compressor.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return ar("debian-binary", []byte("2.0\n"), "control.tar.xz", []byte("odd"), "data.tar"+suffix,
		data.Bytes())
}

// ar is an archive of names and contents.
func ar(members ...any) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		content := members[i+1].([]byte)
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", members[i], 0, 0, 0, 0o100644, len(content))
		b.Write(content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func file(name string, mode int64, body string) tar.Header {
	return tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeReg,
		PAXRecords: map[string]string{"body": body}}
}

func directory(name string) tar.Header {
	return tar.Header{Name: name, Mode: 0o700, Typeflag: tar.TypeDir}
}

func link(kind byte, name, to string) tar.Header {
	return tar.Header{Name: name, Mode: 0o777, Typeflag: kind, Linkname: to}
}

// unpackDebs unpacks packages by name in the order given.
func unpackDebs(t *testing.T, named ...any) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	var packages []Package
	for i := 0; i < len(named); i += 2 {
		path := filepath.Join(t.TempDir(), "0123abcd")
		if err := os.WriteFile(path, named[i+1].([]byte), 0o644); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, Package{Name: named[i].(string), Path: path})
	}
	return dir, Unpack(t.Context(), dir, packages, nil)
}

func TestUnpack(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir, err := unpackDebs(t,
		"gcc", debWith(t, ".zst", []tar.Header{
			file("./usr/bin/gcc", 0o4755, "compiler"),
			link(tar.TypeLink, "./usr/bin/gcc-14", "./usr/bin/gcc"),
			file("./bin/through-the-link", 0o700, "x"),
			file("./usr/share/doc/gcc/README", 0o644, "never read"),
		}),
		"base-files", debWith(t, ".xz", []tar.Header{
			directory("./"), directory("./usr/"), directory("./usr/bin/"), directory("./root/"),
			link(tar.TypeSymlink, "./bin", "usr/bin"),
			file("./etc/shadow", 0o600, "secret"),
		}),
		"gawk", debWith(t, ".gz", []tar.Header{file("./usr/bin/gawk", 0o755, "awk")}),
		"plain", debWith(t, "", []tar.Header{file("./usr/lib/plain", 0o644, "plain")}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for path, expected := range map[string]string{
		"usr/bin/gcc":              "-rwxr-xr-x compiler",
		"usr/bin/gcc-14":           "-rwxr-xr-x compiler",
		"usr/bin/through-the-link": "-rwxr-xr-x x",
		"bin/gcc":                  "-rwxr-xr-x compiler",
		"usr/bin/cc":               "-rwxr-xr-x compiler",
		"usr/bin/awk":              "-rwxr-xr-x awk",
		"etc/shadow":               "-rw-r--r-- secret",
		"usr/lib/plain":            "-rw-r--r-- plain",
		"lib/plain":                "-rw-r--r-- plain", // without a link in base-files
	} {
		content, err := os.ReadFile(filepath.Join(dir, path))
		info, statErr := os.Stat(filepath.Join(dir, path))
		if err := errors.Join(err, statErr); err != nil {
			t.Error(err)
			continue
		}
		if got := info.Mode().String() + " " + string(content); got != expected {
			t.Errorf("%s: expected %q, found %q", path, expected, got)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "root")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a directory whatever the umask: %v, %v", info.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "usr/share/doc")); err == nil {
		t.Error("documentation was unpacked")
	}
}

func TestUnpackRefuses(t *testing.T) {
	whole := debWith(t, ".xz", []tar.Header{file("./a", 0o644, strings.Repeat("content ", 1000))})
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-60] ^= 1
	for _, c := range []struct {
		name     string
		deb      []byte
		expected string
	}{
		{"not a package", []byte("<html>"), `not a Debian package: expected magic "!<arch>\n"`},
		{"empty", nil, "not a Debian package"},
		{"no data", ar("debian-binary", []byte("2.0\n")), "no data.tar"},
		{"unknown compression", ar("data.tar.lzma", []byte("x")), "data.tar.lzma: unknown compression"},
		{"cut short", whole[:len(whole)-40], "unexpected EOF"},
		{"damaged", flipped, "xz"},
		{"damaged header", []byte("!<arch>\n" + strings.Repeat("x", 60)), "damaged header"},
		{"outside", debWith(t, "", []tar.Header{file("../evil", 0o644, "x")}), "escapes"},
		{"outside through a link", debWith(t, "", []tar.Header{link(tar.TypeSymlink, "l", "/tmp"),
			file("l/evil", 0o644, "x")}), "escapes"},
		{"a device", debWith(t, "", []tar.Header{{Name: "dev/sda", Typeflag: tar.TypeBlock, Mode: 0o644}}),
			"expected a file, directory or link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := unpackDebs(t, "pkg", c.deb)
			if err == nil || !strings.Contains(err.Error(), c.expected) ||
				!strings.Contains(err.Error(), "unpack pkg") {
				t.Errorf("expected %q about pkg, found %v", c.expected, err)
			}
		})
	}
	_, err := unpackDebs(t, "one", debWith(t, "", []tar.Header{file("a", 0o644, "1")}), "two",
		debWith(t, "", []tar.Header{file("a", 0o644, "2")}))
	if err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("one file of two packages: %v", err)
	}
}

func TestUnpackReportsAndStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deb")
	if err := os.WriteFile(path, debWith(t, "", []tar.Header{directory("d")}), 0o644); err != nil {
		t.Fatal(err)
	}
	packages := []Package{{"a", path}, {"b", path}, {"c", path}}
	var lock sync.Mutex // packages are unpacked side by side
	var last progress.Event
	if err := Unpack(t.Context(), t.TempDir(), packages, func(e progress.Event) {
		lock.Lock()
		defer lock.Unlock()
		if e.Done > last.Done {
			last = e
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := (progress.Event{Stage: "unpack", Done: 3, Total: 3, Unit: "packages"}); last != want {
		t.Errorf("expected %+v at the end, found %+v", want, last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, t.TempDir(), packages, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
