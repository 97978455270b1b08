// Package jsontoken reads JSON token by token, and sees what a decoder hides: a name that an object has
// twice. Go's decoder takes the last value or merges both, also where the names differ only in case; other
// programs take the first, or the one in the right case.
package jsontoken

import (
	"bytes"
	"encoding/json"
	"io"
	"iter"
	"slices"
	"strings"
)

// A Token is a token of a text, and where it stands.
type Token struct {
	json.Token
	Name     bool   // the token is a name in an object
	Folded   string // of a name: two names that Go takes for the same field have the same
	Repeated bool   // the object has had the name before
	Depth    int    // how many objects and lists are open after the token
}

// All returns the tokens of all values in a text. It ends at the end of the text, which may be inside of a
// value, or with the error of [json.Decoder.Token]. In the objects whose own names are among exact, in any
// case, names that differ in case are different ones.
func All(text []byte, exact ...string) iter.Seq2[Token, error] {
	type level struct {
		names map[string]bool // of an object; nil for a list
		exact bool
		last  string // the last name
		value bool   // a value is next
	}
	return func(yield func(Token, error) bool) {
		in := json.NewDecoder(bytes.NewReader(text))
		for levels := []level{{}}; ; {
			token, err := in.Token()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Token{}, err)
				return
			}
			t := Token{Token: token}
			top := &levels[len(levels)-1]
			if name, ok := token.(string); ok && top.names != nil && !top.value {
				t.Name, t.Folded = true, strings.ToLower(strings.ToUpper(name)) // as Go does: ſ is S
				key := t.Folded
				if top.exact {
					key = name
				}
				t.Repeated = top.names[key]
				top.names[key], top.last = true, key
			}
			top.value = t.Name
			switch token {
			case json.Delim('{'):
				levels = append(levels, level{names: map[string]bool{}, exact: slices.Contains(exact,
					top.last)})
			case json.Delim('['):
				levels = append(levels, level{})
			case json.Delim('}'), json.Delim(']'):
				levels = levels[:len(levels)-1]
			}
			t.Depth = len(levels) - 1
			if !yield(t, nil) {
				return
			}
		}
	}
}
