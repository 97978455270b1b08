package docs

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestIndex checks that docs/README.md links to each page in docs, and docs/decisions/README.md to each
// decision.
func TestIndex(t *testing.T) {
	for _, dir := range []string{"docs", "docs/decisions"} {
		index := filepath.Join(dir, "README.md")
		text := read(t, index)
		for _, page := range pages(t) {
			name := filepath.Base(page)
			if filepath.Dir(page) == dir && page != index && !strings.Contains(text, "]("+name+")") {
				t.Errorf("%s: no link to %s", index, page)
			}
		}
	}
}

// sources calls f with each Go file of the programs and libraries, tests and measurements left out.
func sources(t *testing.T, f func(name string, text []byte)) {
	t.Helper()
	for _, dir := range []string{"cmd", "eif", "image", "initramfs", "internal", "kernel", "nsm"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.IsDir() && e.Name() == "testdata" {
				return fs.SkipDir
			}
			if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f(path, text)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var (
	variable     = regexp.MustCompile("`([A-Z][A-Z0-9_]+)`")
	ownVariable  = regexp.MustCompile(`^(NEB|LINUXKIT)_[A-Z0-9_]+$`)
	notVariables = []string{"PATH"} // of the machine: where programs are found
)

// TestEnvironment checks docs/environment.md in both directions: each variable that the source reads is
// there, and each of neb's own variables that is there is read somewhere.
func TestEnvironment(t *testing.T) {
	const page = "docs/environment.md"
	var documented []string
	for _, m := range variable.FindAllStringSubmatch(read(t, page), -1) {
		documented = append(documented, m[1])
	}
	readBySource := map[string]string{} // the file that reads it, by variable
	sources(t, func(name string, text []byte) {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit: // NEB_… and LINUXKIT_…, wherever they are read
				s, err := strconv.Unquote(n.Value)
				if err == nil && n.Kind == token.STRING && ownVariable.MatchString(s) {
					readBySource[s] = name
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || f.Sel.Name != "Getenv" && f.Sel.Name != "LookupEnv" || len(n.Args) != 1 {
					break
				}
				if literal, ok := n.Args[0].(*ast.BasicLit); ok {
					if s, err := strconv.Unquote(literal.Value); err == nil {
						readBySource[s] = name
					}
				}
			}
			return true
		})
	})
	if len(readBySource) < 10 {
		t.Fatalf("the source reads %d variables: the search for them is broken", len(readBySource))
	}
	for name, file := range readBySource {
		if !slices.Contains(documented, name) && !slices.Contains(notVariables, name) {
			t.Errorf("%s: %s, which %s reads, is missing", page, name, file)
		}
	}
	for _, name := range documented {
		if _, ok := readBySource[name]; ownVariable.MatchString(name) && !ok && !readByTests(t, name) {
			t.Errorf("%s: nothing reads %s", page, name)
		}
	}
}

// readByTests reports whether a test reads a variable.
func readByTests(t *testing.T, name string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || found || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		found = bytes.Contains(text, []byte(`Getenv("`+name+`")`))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	quoted    = regexp.MustCompile("`([^`]+)`")
	continued = regexp.MustCompile(`"\s*\+\n\s*"`) // where a string literal goes on in the next line
)

// TestMessages checks that the messages in the first columns of docs/troubleshooting.md are in the source.
// "…" stands for what a message fills in.
func TestMessages(t *testing.T) {
	const page = "docs/troubleshooting.md"
	var all bytes.Buffer
	sources(t, func(_ string, text []byte) { all.Write(continued.ReplaceAll(text, nil)) })
	tables := false // of messages, as their first line says
	found := 0
	for i, line := range strings.Split(read(t, page), "\n") {
		if !strings.HasPrefix(line, "|") {
			tables = false
			continue
		}
		first := strings.SplitN(line, "|", 3)[1]
		if strings.TrimSpace(first) == "message" || strings.TrimSpace(first) == "line on the console" {
			tables = true
		}
		m := quoted.FindStringSubmatch(first)
		if !tables || m == nil {
			continue
		}
		for _, part := range strings.Split(m[1], "…") {
			if part = strings.Trim(part, " :,"); strings.HasPrefix(m[1], "exec ") {
				continue // the kernel's words, after the name of a step
			}
			if found++; !bytes.Contains(all.Bytes(), []byte(part)) {
				t.Errorf("%s:%d: no message has %q", page, i+1, part)
			}
		}
	}
	if found < 20 {
		t.Errorf("%s: found %d messages, expected at least 20", page, found)
	}
}

var row = regexp.MustCompile("(?m)^\\| ([^|]*) \\| (`[^|]*) \\|")

// TestArchitecture checks the table of docs/architecture.md: every package has a floor, imports go down or
// stay on the floor, and the rows of floor 3 do not import each other.
func TestArchitecture(t *testing.T) {
	const page = "docs/architecture.md"
	type place struct{ floor, row int }
	rows := map[string]place{} // by directory
	floors := map[string]int{"roof": 5, "4": 4, "3": 3, "2": 2, "ground, public": 1, "ground": 1}
	for i, m := range row.FindAllStringSubmatch(read(t, page), -1) {
		floor, ok := floors[m[1]]
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			if ok {
				rows[strings.TrimSuffix(q[1], "/…")] = place{floor, i}
			}
		}
	}
	find := func(pkg string) (place, bool) {
		for dir := pkg; dir != "."; dir = filepath.Dir(dir) {
			if p, ok := rows[dir]; ok {
				return p, true
			}
		}
		return place{}, false
	}
	const module = "github.com/nitro-enclaves-bootstrap/neb/"
	list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./cmd/...", "./eif/...",
		"./image/...", "./initramfs/...", "./internal/...", "./kernel/...", "./nsm/...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		paths := strings.Fields(line)
		pkg := strings.TrimPrefix(paths[0], module)
		if strings.HasPrefix(pkg, "internal/testing/") || strings.HasPrefix(pkg, "internal/tools/") {
			continue
		}
		from, ok := find(pkg)
		if !ok {
			t.Errorf("%s: %s has no row", page, pkg)
			continue
		}
		for _, path := range paths[1:] {
			used, inside := strings.CutPrefix(path, module)
			to, ok := find(used)
			switch {
			case !inside || !ok:
			case to.floor > from.floor:
				t.Errorf("%s imports %s, which is on a higher floor", pkg, used)
			case to.floor == 3 && from.floor == 3 && to.row != from.row && pkg != "internal/release":
				t.Errorf("%s imports %s: packages of floor 3 do not import each other", pkg, used)
			}
		}
	}
}

// TestLineLength keeps prose at 110 columns. Tables, links, headings and fenced blocks may be longer.
func TestLineLength(t *testing.T) {
	for _, page := range pages(t) {
		fenced := false
		for i, line := range strings.Split(read(t, page), "\n") {
			if fence.MatchString(line) {
				fenced = !fenced
			}
			exempt := fenced || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "<!--") ||
				strings.Contains(line, "](")
			if !exempt && len([]rune(line)) > 110 {
				t.Errorf("%s:%d: %d columns, expected at most 110", page, i+1, len([]rune(line)))
			}
		}
	}
}

// TestGoLineLength keeps Go at 110 columns, of which a tab takes 4. Lines of raw strings may be longer.
func TestGoLineLength(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == "result" || name != ".." && strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var s scanner.Scanner
		file := token.NewFileSet().AddFile(path, -1, len(text))
		s.Init(file, text, nil, 0)
		raw := map[int]bool{}
		for pos, tok, lit := s.Scan(); tok != token.EOF; pos, tok, lit = s.Scan() {
			if tok == token.STRING && lit[0] == '`' {
				for i := range strings.Count(lit, "\n") + 1 {
					raw[file.Line(pos)+i] = true
				}
			}
		}
		for i, line := range strings.Split(string(text), "\n") {
			n := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
			if n > 110 && !raw[i+1] {
				t.Errorf("%s:%d: %d columns, expected at most 110", path, i+1, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
