//go:build linux

package cli

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/timeline"
	"github.com/nitro-enclaves-bootstrap/neb/internal/network"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

// sections returns the text of each section of docs/json.md by its heading, subsections included.
func sections(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		all[heading] = text
	}
	return all
}

// fields calls use for each name of a field that a value of type t has in JSON.
func fields(t reflect.Type, use func(string)) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		if !t.Implements(reflect.TypeFor[json.Marshaler]()) {
			fields(t.Elem(), use)
		}
	case reflect.Struct:
		if t.PkgPath() == "time" {
			return
		}
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case !f.IsExported() || name == "-":
				continue
			case name == "" && !f.Anonymous:
				name = f.Name
			}
			if name != "" {
				use(name)
			}
			fields(f.Type, use)
		}
	}
}

// Every field that a command prints is in its section of docs/json.md.
func TestJSONFieldsAreDocumented(t *testing.T) {
	pages := sections(t)
	for _, c := range []struct {
		section string
		printed any
	}{
		{"neb build", buildReport{}},
		{"neb verify", output.Finding{}},
		{"neb cache", cacheReport{}},
		{"neb lock audit", lockAudit{}},
		{"neb trust", []trust.Key{}},
		{"neb trust", []trustStatement{}},
		{"neb eif describe", inspect.Description{}},
		{"neb eif check", eifCheckReport{}},
		{"neb eif verify", eifVerifyReport{}},
		{"neb eif diff", inspect.Difference{}},
		{"neb attest verify", attestReport{}},
		{"neb run", timeline.Event{}},
		{"neb net status", network.Status{}},
	} {
		fields(reflect.TypeOf(c.printed), func(name string) {
			if name == "Text" && c.section == "neb eif describe" || name == "Code" &&
				c.section == "neb eif describe" {
				return // of findings, which neb eif verify describes
			}
			found := regexp.MustCompile("`([^`]*[.\\]])?" + regexp.QuoteMeta(name) +
				"`").MatchString(pages[c.section])
			if !found {
				t.Errorf("docs/json.md, %s: the field %s is missing", c.section, name)
			}
		})
	}
}

// Every fixed word that a field may have is in a section of docs/json.md.
func TestJSONWordsAreDocumented(t *testing.T) {
	pages := sections(t)
	for _, c := range []struct {
		dir, kind string
		sections  []string
		words     int // at least
	}{
		{"../hermetic/output", "State", []string{"neb verify"}, 4},
		{"../hermetic/lock", "RebuildState", []string{"neb lock audit"}, 3},
		{"../hermetic/store", "Kind", []string{"neb cache"}, 6},
		{"../inspect", "Result", []string{"neb eif verify"}, 5},
		{"../inspect", "Code", []string{"neb eif verify", "neb attest verify"}, 16},
		{"../inspect", "DocResult", []string{"neb attest verify"}, 3},
		{"../preflight", "Severity", []string{"neb eif check"}, 3},
		{"../machine", "EventKind", []string{"neb run"}, 7},
		{"../network", "EventKind", []string{"neb run"}, 3},
		{"../machine/timeline", "Result", []string{"neb run"}, 5},
	} {
		words := constants(t, c.dir, c.kind)
		if len(words) < c.words {
			t.Errorf("%s: found %d constants of type %s, expected at least %d", c.dir, len(words), c.kind,
				c.words)
		}
		for _, word := range words {
			var text string
			for _, s := range c.sections {
				text += pages[s]
			}
			if !strings.Contains(text, "| `"+word+"`") && !strings.Contains(text, ", `"+word+"`") {
				t.Errorf("docs/json.md, %s: the word %s is missing", strings.Join(c.sections, ", "), word)
			}
		}
	}
}

// constants returns the values of the string constants of a type in a package's directory.
func constants(t *testing.T, dir, kind string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != kind {
				return true
			}
			for _, v := range spec.Values {
				if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					value, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, value)
				}
			}
			return true
		})
	}
	return values
}
