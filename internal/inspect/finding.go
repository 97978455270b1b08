package inspect

import "fmt"

// A Finding is one thing that is wrong with an EIF or an attestation document, or differs from what was
// expected.
type Finding struct {
	Code Code   // for programs; docs/json.md lists the codes
	Text string // for people
}

// Code classifies a [Finding].
type Code string

func find(code Code, format string, args ...any) Finding {
	return Finding{code, fmt.Sprintf(format, args...)}
}

func (f Finding) String() string { return f.Text }
