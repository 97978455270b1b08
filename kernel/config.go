package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// An Option is one line of a fragment.
type Option struct {
	Name  string // with its CONFIG_ prefix
	Value string // y, m, n, a number, or a string in its quotes
	File  string // the fragment's name
	Line  int    // in that fragment, from 1
}

// Where returns the option's place, as file:line.
func (o Option) Where() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

var (
	assignment = regexp.MustCompile(`^(CONFIG_[A-Za-z0-9_]+)=(.*)$`)
	unset      = regexp.MustCompile(`^# (CONFIG_[A-Za-z0-9_]+) is not set$`)
	almost     = regexp.MustCompile(`^\s*#\s*(CONFIG_)?\w+\s+is not set\s*$`)
	value      = regexp.MustCompile(`^([ymn]|-?[0-9]+|0[xX][0-9a-fA-F]+|"([^"\\]|\\.)*")$`)
)

// Parse reads a fragment. It is stricter than Kconfig, which ignores what it does not understand: every line
// is an assignment, "# CONFIG_NAME is not set", another comment, or empty; and no option appears twice. The
// error joins all that is wrong, a line each, as file:line.
func Parse(f Fragment) ([]Option, error) {
	var options []Option
	var wrong []error
	seen := make(map[string]int)
	for i, line := range strings.Split(f.Text, "\n") {
		o, err := parseLine(line)
		if err == nil && o.Name != "" {
			if first, twice := seen[o.Name]; twice {
				err = fmt.Errorf("%s is already on line %d", o.Name, first)
			} else {
				seen[o.Name] = i + 1
			}
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", f.Name, i+1, err))
			continue
		}
		if o.Name != "" {
			o.File, o.Line = f.Name, i+1
			options = append(options, o)
		}
	}
	return options, errors.Join(wrong...)
}

// parseLine reads one line; the zero Option is a comment or an empty line.
func parseLine(line string) (Option, error) {
	switch {
	case strings.HasSuffix(line, "\r"):
		return Option{}, errors.New("line ends in CR LF: expected LF")
	case strings.TrimSpace(line) == "":
		return Option{}, nil
	}
	if m := unset.FindStringSubmatch(line); m != nil {
		return Option{Name: m[1], Value: "n"}, nil
	}
	if almost.MatchString(line) {
		return Option{}, fmt.Errorf("%q: Kconfig reads this as a comment: expected exactly %q",
			line, "# CONFIG_NAME is not set")
	}
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return Option{}, nil
	}
	m := assignment.FindStringSubmatch(line)
	if m == nil {
		return Option{}, fmt.Errorf("%q: expected CONFIG_NAME=value, %q or a comment",
			line, "# CONFIG_NAME is not set")
	}
	if !value.MatchString(m[2]) {
		return Option{}, fmt.Errorf("%s: invalid value %q: expected y, m, n, a number or a quoted string",
			m[1], m[2])
	}
	return Option{Name: m[1], Value: m[2]}, nil
}

// Requested parses fragments and returns their options together: one Option per name, in the order of first
// mention, each with its last value.
func Requested(fragments []Fragment) ([]Option, error) {
	var all []Option
	var wrong []error
	at := make(map[string]int)
	for _, f := range fragments {
		options, err := Parse(f)
		wrong = append(wrong, err)
		for _, o := range options {
			if i, again := at[o.Name]; again {
				all[i] = o
				continue
			}
			at[o.Name] = len(all)
			all = append(all, o)
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return all, nil
}

// Check compares fragments with final, the text of the .config that Kconfig made of them. The error joins
// every option that Kconfig dropped or changed, a line each, by the file:line that requests it; or every
// syntax error of the fragments.
func Check(requested []Fragment, final []byte) error {
	options, have, err := bothSides(requested, final)
	if err != nil {
		return err
	}
	var wrong []error
	for _, o := range options {
		got, known := have[o.Name]
		switch {
		case o.Value == got, o.Value == "n" && !known:
			continue
		case !known:
			wrong = append(wrong, fmt.Errorf("%s: %s=%s is not in the final configuration: "+
				"this kernel has no such option, or an option that it depends on is not set",
				o.Where(), o.Name, o.Value))
		default:
			wrong = append(wrong, fmt.Errorf("%s: %s=%s became %s=%s in the final configuration: Kconfig "+
				"overrode it (a dependency, another option that selects it, or a value out of range)",
				o.Where(), o.Name, o.Value, o.Name, got))
		}
	}
	return errors.Join(wrong...)
}

var symbol = regexp.MustCompile(`(?m)^\s*(?:menu)?config\s+([A-Za-z0-9_]+)`)

// CheckNames fails for each option that fragments turn off and that tree, a kernel's source, does not define.
// The final configuration does not show it, and an option with a misspelt name would stay on.
func CheckNames(requested []Fragment, tree fs.FS, final []byte) error {
	options, have, err := bothSides(requested, final)
	if err != nil {
		return err
	}
	options = slices.DeleteFunc(options, func(o Option) bool {
		_, known := have[o.Name]
		return known || o.Value != "n"
	})
	if len(options) == 0 {
		return nil
	}
	known := map[string]bool{}
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasPrefix(d.Name(), "Kconfig") {
			return err
		}
		text, err := fs.ReadFile(tree, path)
		for _, m := range symbol.FindAllSubmatch(text, -1) {
			known["CONFIG_"+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	var wrong []error
	for _, o := range options {
		if !known[o.Name] {
			wrong = append(wrong, fmt.Errorf("%s: %s=n: this kernel has no such option", o.Where(), o.Name))
		}
	}
	return errors.Join(wrong...)
}

// bothSides returns the options of fragments, and those of the final configuration.
func bothSides(requested []Fragment, final []byte) ([]Option, map[string]string, error) {
	options, err := Requested(requested)
	if err != nil {
		return nil, nil, err
	}
	have, err := parseFinal(final)
	return options, have, err
}

// parseFinal reads a whole .config as Kconfig writes it.
func parseFinal(final []byte) (map[string]string, error) {
	have := make(map[string]string)
	lines := bufio.NewScanner(bytes.NewReader(final))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		o, err := parseLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("final configuration: line %d: %w", n, err)
		}
		if o.Name != "" {
			have[o.Name] = o.Value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("final configuration: %w", err)
	}
	if len(have) == 0 {
		return nil, errors.New("final configuration: empty")
	}
	return have, nil
}
