package store

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/remote"
)

// TestFetchFromRemote downloads from a remote where no mirror has the files, and resumes.
func TestFetchFromRemote(t *testing.T) {
	dir := t.TempDir()
	data := strings.Repeat("a package ", 50_000)
	sum := sha256.Sum256([]byte(data))
	file := lock.File{Name: "a", Archive: lock.Debian, Path: "pool/a.deb", Size: int64(len(data)),
		SHA256: hex.EncodeToString(sum[:])}
	path := filepath.Join(dir, "a.deb")
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := remote.Open(t.Context(), filepath.Join(dir, "shared"))
	if err != nil {
		t.Fatal(err)
	}
	err = r.PushDownloads(t.Context(), "downloads", []string{file.SHA256}, func(string) string {
		return path
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]string{"whole": "", "rest": data[:1000],
		"wrong part": "something else"} {
		s, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := os.WriteFile(s.in(partial, file.SHA256), []byte(part), 0o644); err != nil {
			t.Fatal(err)
		}
		o := FetchOptions{Mirrors: &fetch.Mirrors{Remotes: []*remote.Remote{r}}}
		if name == "wrong part" { // it is dropped, and the next call succeeds
			_ = s.Fetch(t.Context(), []lock.File{file}, o)
		}
		if err := s.Fetch(t.Context(), []lock.File{file}, o); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if found, err := os.ReadFile(s.Path(file)); err != nil || string(found) != data {
			t.Errorf("%s: wrong content, error %v", name, err)
		}
	}
}
