package pack

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// TestParts cuts an image into parts of 4096 bytes, as it is cut into nearly 4 GiB in earnest.
func TestParts(t *testing.T) {
	for _, test := range []struct{ size, parts int }{{1, 1}, {4096, 1}, {4097, 2}, {8192, 2}, {10000, 3}} {
		name := filepath.Join(t.TempDir(), "root.erofs")
		content := bytes.Repeat([]byte("0123456789"), 1000)[:test.size]
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
		d := &disk{tree: image.NewTree(t.TempDir(), image.Limits{})}
		defer d.close()
		var description contract.Description
		if err := d.addParts(name, &description, 4096); err != nil {
			t.Fatal(err)
		}
		if int(description.ErofsParts) != test.parts {
			t.Errorf("%d bytes make %d parts, want %d", test.size, description.ErofsParts, test.parts)
		}
		var joined []byte
		for i := range test.parts {
			e, ok := d.tree.Lookup(fmt.Sprintf("neb/root.%d", i))
			if !ok {
				t.Fatalf("part %d is missing", i)
			}
			var body bytes.Buffer
			_, err := d.tree.CopyBody(&body, e)
			part := body.Bytes()
			if err != nil || len(part) == 0 || i < test.parts-1 && len(part) != 4096 {
				t.Errorf("part %d has %d bytes (%v)", i, len(part), err)
			}
			joined = append(joined, part...)
		}
		if !bytes.Equal(joined, content) {
			t.Errorf("%d bytes are others when joined", test.size)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := &disk{tree: image.NewTree(t.TempDir(), image.Limits{})}
	defer d.close()
	if err := d.addParts(empty, &contract.Description{}, 4096); err == nil {
		t.Error("an empty image is taken")
	}
}
