package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPromises checks that every test that SECURITY.md names exists.
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
	found := names.FindAllString(read(t, "SECURITY.md"), -1)
	if len(found) == 0 {
		t.Error("SECURITY.md names no test")
	}
	for _, name := range found {
		if !declared[name] {
			t.Errorf("SECURITY.md names %s, which is no test", name)
		}
	}
}
