package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPromises checks that every test that SECURITY.md and docs/parsers.md name exists.
func TestPromises(t *testing.T) {
	names := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w+)\(`)
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"SECURITY.md", "docs/parsers.md"} {
		found := names.FindAllString(read(t, page), -1)
		if len(found) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, name := range found {
			if !declared[name] {
				t.Errorf("%s names %s, which is no test", page, name)
			}
		}
	}
}
