package epoch

import (
	"strings"
	"testing"
)

func TestFromEnvironment(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1700000000": 1_700_000_000, "4294967295": 1<<32 - 1} {
		t.Setenv(Variable, text)
		if got, err := FromEnvironment(); err != nil || got == nil || *got != want {
			t.Errorf("%q: got %v, %v, want %d", text, got, err, want)
		}
	}
	t.Setenv(Variable, "")
	if got, err := FromEnvironment(); got != nil || err != nil {
		t.Errorf("empty: got %v, %v, want none", got, err)
	}
	for _, text := range []string{"-1", "4294967296", "yesterday", "1.5", " 1"} {
		t.Setenv(Variable, text)
		if got, err := FromEnvironment(); err == nil || !strings.Contains(err.Error(), `"`+text+`"`) {
			t.Errorf("%q: got %v, %v, want an error with the value", text, got, err)
		}
	}
}
