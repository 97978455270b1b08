package jsontoken

import (
	"fmt"
	"strings"
	"testing"
)

func TestRepeated(t *testing.T) {
	for _, c := range []struct{ text, repeated string }{
		{`{"a": "a", "b": ["a", "a"], "c": {"a": "b"}}`, ""},
		{`{"a": 1, "b": 2, "a": 3}`, "a"},
		{`{"Name": 1, "name": 2, "NAME": 3}`, "name NAME"},
		{`{"s": 1, "\u017f": 2}`, "ſ"},
		{`[{"a": {"b": 1, "b": 2}}]`, "b"},
		{`{"labels": {"a": 1, "A": 2, "a": 3}}`, "a"},
		{`{"Labels": {"a": 1, "A": 2}, "b": 1, "B": 2}`, "B"},
		{`{"labels": [{"a": 1, "A": 2}]}`, "A"},
		{`{"a": 1} {"a": 2}`, ""},
	} {
		var repeated []string
		for token, err := range All([]byte(c.text), "labels") {
			if err != nil {
				t.Errorf("%s: %v", c.text, err)
			}
			if token.Repeated {
				repeated = append(repeated, token.Token.(string))
			}
		}
		if got := strings.Join(repeated, " "); got != c.repeated {
			t.Errorf("%s: found %q twice, expected %q", c.text, got, c.repeated)
		}
	}
}

func TestTokens(t *testing.T) {
	var got []string
	for token, err := range All([]byte(`{"A": ["b", null]} 1 }`)) {
		if err != nil {
			got = append(got, "error")
			continue
		}
		got = append(got, fmt.Sprint(token.Depth, token.Token, token.Folded))
	}
	want := "1 { 1Aa 2 [ 2b 2 <nil> 1 ] 0 } 0 1 error"
	if got := strings.Join(got, " "); got != want {
		t.Errorf("found %s, expected %s", got, want)
	}
}
