// Package debian reads what Debian describes its archives with: stanzas of fields (deb822(5)), versions
// (deb-version(7)) and relations between binary packages (Debian Policy, section 7.1). It does not know
// where files come from (see fetch) or which are needed (see resolve).
package debian

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Stanza is one paragraph of fields, by name as written.
type Stanza map[string]string

// Each calls f for every stanza of r, in order, until f fails. The lines of a value are separated by line
// breaks, without the blank that a continuation line begins with.
func Each(r io.Reader, f func(Stanza) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), 4<<20)
	now, field := Stanza{}, ""
	line := 0
	flush := func() error {
		if len(now) == 0 {
			return nil
		}
		done := now
		now, field = Stanza{}, ""
		return f(done)
	}
	for in.Scan() {
		line++
		text := strings.TrimRight(in.Text(), " \t\r")
		switch {
		case text == "":
			if err := flush(); err != nil {
				return err
			}
		case text[0] == '#':
		case text[0] == ' ' || text[0] == '\t':
			if field == "" {
				return fmt.Errorf("line %d: continuation line without a field", line)
			}
			now[field] += "\n" + text[1:]
		default:
			name, value, ok := strings.Cut(text, ":")
			if !ok || name == "" || strings.ContainsAny(name, " \t") {
				return fmt.Errorf("line %d: expected 'Field: value', found %q", line, text)
			}
			if _, twice := now[name]; twice {
				return fmt.Errorf("line %d: duplicate field %s", line, name)
			}
			field = name
			now[field] = strings.TrimSpace(value)
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("line %d: %w", line+1, err)
	}
	return flush()
}

// Compare returns a negative number if version a is older than b, 0 if they are equal, and else a positive
// number.
func Compare(a, b string) int {
	ea, ua, ra := split(a)
	eb, ub, rb := split(b)
	return cmp.Or(compareDigits(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

// split splits [epoch:]upstream[-revision]. A missing epoch or revision is "0".
func split(v string) (epoch, upstream, revision string) {
	epoch, revision = "0", "0"
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		v, revision = v[:i], v[i+1:]
	}
	return epoch, v, revision
}

// comparePart compares, in turn, the leading non-digits and the leading digits.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		var na, nb string
		na, a = span(a, false)
		nb, b = span(b, false)
		for i := range max(len(na), len(nb)) {
			if c := weight(na, i) - weight(nb, i); c != 0 {
				return c
			}
		}
		na, a = span(a, true)
		nb, b = span(b, true)
		if c := compareDigits(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// span splits s after its leading digits, or after its leading non-digits.
func span(s string, digits bool) (part, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) == digits {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// weight is the rank of the i-th byte of a part: tilde, then the end, then letters, then all others.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case 'a' <= s[i] && s[i] <= 'z' || 'A' <= s[i] && s[i] <= 'Z':
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}

// compareDigits compares numbers of any length.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// Relation is one alternative of a dependency.
type Relation struct {
	Name    string
	Arch    string // "any" or an architecture, if the relation names one
	Op      string // "<<", "<=", "=", ">=", ">>", or "" for any version
	Version string
}

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// Met reports whether a version satisfies the relation.
func (r Relation) Met(version string) bool {
	c := Compare(version, r.Version)
	switch r.Op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

// Relations parses the value of a field like Depends: one alternative of each group must be met.
func Relations(value string) ([][]Relation, error) {
	var all [][]Relation
	for group := range strings.SplitSeq(value, ",") {
		if strings.TrimSpace(group) == "" {
			continue // trailing comma
		}
		var alternatives []Relation
		for one := range strings.SplitSeq(group, "|") {
			r, err := relation(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			alternatives = append(alternatives, r)
		}
		all = append(all, alternatives)
	}
	return all, nil
}

// relationForm is the form of a relation (Debian Policy, sections 5.6.1, 5.6.12 and 7.1). "<" and ">" are
// deprecated forms of "<=" and ">=". Lists of architectures and build profiles are for source packages
// only.
var relationForm = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9][a-z0-9-]*))?\s*` +
	`(?:\(\s*(<<|<=|<|=|>=|>>|>)\s*([A-Za-z0-9.+~:-]+)\s*\))?$`)

func relation(s string) (Relation, error) {
	m := relationForm.FindStringSubmatch(s)
	if m == nil {
		return Relation{}, fmt.Errorf("invalid relation: "+
			"expected 'name', 'name:arch' or 'name (>= version)', found %q", s)
	}
	r := Relation{Name: m[1], Arch: m[2], Op: m[3], Version: m[4]}
	if r.Op == "<" || r.Op == ">" {
		r.Op += "="
	}
	return r, nil
}
