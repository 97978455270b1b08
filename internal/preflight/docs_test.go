package preflight

import (
	"os"
	"strings"
	"testing"
)

// TestCodesAreDocumented compares the table of docs/check.md with Codes.
func TestCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "| code | severity | found | remedy |\n|---|---|---|---|\n")
	if !ok {
		t.Fatal("docs/check.md has no table of codes")
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	var want []string
	for _, k := range Codes {
		want = append(want,
			"| `"+string(k.Code)+"` | "+string(k.Severity)+" | "+k.Meaning+" | "+k.Remedy+" |")
	}
	if text := strings.Join(want, "\n"); table != text {
		t.Errorf("docs/check.md has\n%s\nwant\n%s", table, text)
	}
}
