package unpack_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// TestLinesOfTheKernel looks up the lines of the kernel that docs/parsers.md names, in the locked source, and
// wants one for each function that the rules name.
func TestLinesOfTheKernel(t *testing.T) {
	source := filepath.Join(filepath.Dir(vm.Unpacker(t)), "source")
	page, err := os.ReadFile("../../docs/parsers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, ramdisks, _ := strings.Cut(string(page), "\n## Ramdisks\n")
	rules, rest, _ := strings.Cut(ramdisks, "\n### Lines of the kernel\n")
	table, _, _ := strings.Cut(rest, "\n## ")
	quoted := regexp.MustCompile("`([^`]+)`")
	functions := map[string]bool{}
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(row, "|\n "), " | ")
		if len(cells) < 3 || !strings.HasPrefix(cells[0], "`") {
			continue
		}
		place, number, _ := strings.Cut(strings.Trim(cells[0], "`"), ":")
		function := strings.Trim(cells[1], "` ")
		functions[function] = true
		text, err := os.ReadFile(filepath.Join(source, place))
		if err != nil {
			t.Error(err)
			continue
		}
		lines := strings.Split(string(text), "\n")
		is := func(n int) bool {
			for _, word := range quoted.FindAllStringSubmatch(cells[2], -1) {
				if !strings.Contains(lines[n-1], word[1]) {
					return false
				}
			}
			return inside(lines[:n], function)
		}
		if n, err := strconv.Atoi(number); err == nil && n > 0 && n <= len(lines) && is(n) {
			continue
		}
		var found []int
		for n := range lines {
			if is(n + 1) {
				found = append(found, n+1)
			}
		}
		t.Errorf("%s:%s (%s) lacks %s: found in lines %v", place, number, function, cells[2], found)
	}
	if len(functions) < 15 {
		t.Errorf("the table has %d functions", len(functions))
	}
	name := regexp.MustCompile(`\b(_*(do|dir|dec|find|maybe|parse|clean|flush|unpack)_[a-z0-9_]+|__?un[a-z]+|__gunzip|unlz4|xz_[a-z0-9_]+|LZ4_decompress_\w+)\b`)
	texts := []string{rules}
	for _, dir := range []string{"../../initramfs", "../../internal/compression"} {
		files, _ := filepath.Glob(dir + "/*.go")
		if len(files) == 0 {
			t.Errorf("%s has no Go files", dir)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if _, comment, ok := strings.Cut(line, "//"); ok {
					texts = append(texts, comment)
				}
			}
		}
	}
	for _, text := range texts {
		for _, f := range name.FindAllString(text, -1) {
			if !functions[f] {
				t.Errorf("docs/parsers.md has no line of %s", f)
			}
		}
	}
}

// inside reports whether the last of the lines is in the function or array of a name, in the kernel's style.
func inside(lines []string, name string) bool {
	for _, line := range slices.Backward(lines) {
		if name == "" || strings.Contains(line, name) && !strings.ContainsAny(line[:1], "\t /*#}") {
			return true
		}
		if strings.HasPrefix(line, "}") {
			return false
		}
	}
	return false
}
