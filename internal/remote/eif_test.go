package remote

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// someEIF is an EIF whose last ramdisk has the given content.
func someEIF(t *testing.T, app string) (*os.File, int64, *eif.File, eif.Measurements) {
	t.Helper()
	f, size := enclaves.Write(t, []enclaves.Section{
		{Type: eif.Kernel, Content: enclaves.BzImage("6.12.1")},
		{Type: eif.Cmdline, Content: []byte("console=ttyS0")},
		{Type: eif.Meta, Content: []byte("{}")},
		{Type: eif.Ramdisk, Content: enclaves.CPIO(enclaves.File("init", "init"))},
		{Type: eif.Ramdisk, Content: enclaves.CPIO(enclaves.File("rootfs/app", app))},
	})
	file, err := eif.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := file.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f, size, file, pass.Measurements
}

func TestEIF(t *testing.T) {
	s := newServer(t, true)
	r := openTest(t, s.name())
	ctx := t.Context()
	push := func(app, tag string) (string, []byte) {
		t.Helper()
		f, size, file, m := someEIF(t, app)
		digest, err := r.PushEIF(ctx, file, f, m, tag)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, size)
		if _, err := f.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		return digest, data
	}
	first, data := push("one", "1")
	uploads := s.uploads.Load()
	_, second := push("two", "2")
	// The header has the checksum of the whole file.
	if n := s.uploads.Load() - uploads; n != 2 {
		t.Errorf("the second EIF moved %d blobs, expected 2: its header and its last ramdisk", n)
	}
	accept := func(*os.File, int64) error { return nil }
	pull := func(reference, path string, check func(*os.File, int64) error) error {
		e, err := r.EIF(ctx, reference)
		if err == nil {
			err = e.Pull(ctx, path, check)
		}
		return err
	}
	path := filepath.Join(t.TempDir(), "pulled.eif")
	for reference, want := range map[string][]byte{"1": data, "2": second, first: data} {
		if err := pull(reference, path, accept); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes than were pushed, error %v", reference, err)
		}
	}
	refused := errors.New("refused")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	err = pull("1", path, func(*os.File, int64) error { return refused })
	if after, readErr := os.ReadFile(path); !errors.Is(err, refused) || readErr != nil ||
		!bytes.Equal(before, after) {
		t.Errorf("after a check that failed: error %v, and the file must be as before", err)
	}
	if err := pull("3", path, accept); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown tag: error %v, expected ErrNotFound", err)
	}
	if err := pull(key, path, accept); err == nil {
		t.Error("an artifact of another type: no error")
	}

	// Sizes whose sum is negative: the second layer would have no end.
	err = r.pushing(ctx, func(target oras.GraphTarget) error {
		layer := content.NewDescriptorFromBytes(mediaSection, []byte("x"))
		if err := put(ctx, target, layer, strings.NewReader("x")); err != nil {
			return err
		}
		endless := layer
		endless.Size = math.MaxInt64
		m, err := putManifest(ctx, target, typeEIF, nil, nil, layer, endless)
		if err != nil {
			return err
		}
		return target.Tag(ctx, m, "endless")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := pull("endless", path, accept); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("an endless layer: error %v, expected one about its size", err)
	}

	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
			return false
		}
		fmt.Fprint(w, strings.Repeat("x", 4096))
		return true
	})
	if err := pull("1", path, accept); err == nil {
		t.Error("blobs with other bytes: no error")
	}
}

func TestParseEIF(t *testing.T) {
	for name, want := range map[string][2]string{
		"registry.example.com/app":         {"registry.example.com/app", "latest"},
		"oci://localhost:5000/app:1.2":     {"localhost:5000/app", "1.2"},
		"localhost:5000/app":               {"localhost:5000/app", "latest"},
		"oci://localhost:5000/app@sha256:": {"localhost:5000/app", "sha256:"},
		"./apps:1":                         {"./apps", "1"},
	} {
		if r, ref := ParseEIF(name); r != want[0] || ref != want[1] {
			t.Errorf("%s: %q and %q, expected %q", name, r, ref, want)
		}
	}
}
