// Package docs tests the documentation: every command in README.md and docs runs, or has a reason why it
// does not; every link has a target; tables agree with the source. The convention is in CONTRIBUTING.md,
// "Commands in the docs".
package docs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/report"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/source"
)

const root = "../.."

// block is one fenced block of a page.
type block struct {
	page     string // relative to the root
	line     int    // of its fence
	language string
	text     string
	reason   string // why it is not run, or ""
}

var (
	fence   = regexp.MustCompile("^( *)```([^`]*)$")
	command = regexp.MustCompile(`^ {4,}(\$ |neb |go |make |docker |nix|linuxkit |git |gh |mount |sha256sum )`)
	reason  = regexp.MustCompile(`^ *<!-- not run: *(.*?) *-->$`)
)

// blocks returns the fenced blocks of a page. The error joins all mistakes in how they are marked.
func blocks(page, text string) ([]block, error) {
	var (
		found  []block
		wrong  []error
		open   *block
		indent string
		mark   string // the reason on the line before
	)
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == nil && m != nil:
			indent = m[1]
			open = &block{page: page, line: i + 1, language: strings.TrimSpace(m[2]), reason: mark}
			if open.language == "" {
				wrong = append(wrong, fmt.Errorf("%s:%d: a block without a language: "+
					"expected sh for commands, else text, yaml, …", page, i+1))
			}
			if mark != "" && open.language != "sh" {
				wrong = append(wrong, fmt.Errorf("%s:%d: a block of %s is never run: remove the comment",
					page, i+1, open.language))
			}
		case open != nil && m != nil && m[2] == "":
			found = append(found, *open)
			open = nil
		case open == nil && command.MatchString(line):
			wrong = append(wrong, fmt.Errorf("%s:%d: a command outside of a fenced block: %s",
				page, i+1, strings.TrimSpace(line)))
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
		if open == nil {
			if mark != "" && m == nil {
				wrong = append(wrong, fmt.Errorf("%s:%d: 'not run' without a block on the next line", page,
					i))
			}
			mark = ""
			if m := reason.FindStringSubmatch(line); m != nil {
				if mark = m[1]; mark == "" {
					wrong = append(wrong, fmt.Errorf("%s:%d: 'not run' without a reason", page, i+1))
				}
			}
		} else {
			mark = ""
		}
	}
	if open != nil {
		wrong = append(wrong, fmt.Errorf("%s:%d: a block without an end", page, open.line))
	}
	return found, errors.Join(wrong...)
}

// pages returns the pages at the root, in docs and in its directories.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rel)
		}
	}
	slices.Sort(all)
	return all
}

func read(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBlocks(t *testing.T) {
	const page = "before\n\n```sh\necho 1\n```\n\n<!-- not run: reasons -->\n```sh\nfalse\n```\n" +
		"1. item:\n\n   ```sh\n   echo 2\n   ```\n\n```text\nout\n```\n"
	found, err := blocks("p.md", page)
	if err != nil {
		t.Fatal(err)
	}
	want := []block{
		{"p.md", 3, "sh", "echo 1\n", ""},
		{"p.md", 8, "sh", "false\n", "reasons"},
		{"p.md", 13, "sh", "echo 2\n", ""},
		{"p.md", 17, "text", "out\n", ""},
	}
	if !slices.Equal(found, want) {
		t.Errorf("found %+v, expected %+v", found, want)
	}
	for text, want := range map[string]string{
		"```\nx\n```\n":                               "p.md:1: a block without a language",
		"    neb build\n":                             "p.md:1: a command outside of a fenced block",
		"```sh\nx\n":                                  "p.md:1: a block without an end",
		"<!-- not run: -->\n```sh\nx\n```\n":          "p.md:1: 'not run' without a reason",
		"<!-- not run: r -->\n\n```sh\nx\n```\n":      "p.md:1: 'not run' without a block on the next line",
		"<!-- not run: r -->\n```yaml\nx: 1\n```\n":   "p.md:2: a block of yaml is never run",
		"```sh\na\n```\n<!-- not run: r -->\ntext\n":  "p.md:4: 'not run' without a block",
		"```text\n<!-- not run: r -->\n```\n```\n```": "p.md:4: a block without a language",
	} {
		if _, err := blocks("p.md", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected %q, found %v", text, want, err)
		}
	}
}

// TestMarks checks that each page is marked correctly, and that a shell can parse each block of sh.
func TestMarks(t *testing.T) {
	for _, page := range pages(t) {
		found, err := blocks(page, read(t, page))
		if err != nil {
			t.Error(err)
		}
		for _, b := range found {
			if b.language != "sh" {
				continue
			}
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(b.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s:%d: %s", b.page, b.line, bytes.TrimSpace(out))
			}
		}
	}
}

// TestCommands runs the commands of each page in a copy of the source, with neb in PATH, in one shell a page.
func TestCommands(t *testing.T) {
	require.Sandbox(t)
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "neb"), "./cmd/neb")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, page := range pages(t) {
		found, err := blocks(page, read(t, page))
		if err != nil {
			continue // TestMarks reports it
		}
		found = slices.DeleteFunc(found, func(b block) bool { return b.language != "sh" || b.reason != "" })
		if len(found) == 0 {
			continue
		}
		t.Run(page, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "neb")
			source.Copy(t, root, dir)
			var script strings.Builder
			name := strings.TrimSuffix(filepath.Base(page), ".md") + ".sh"
			before, err := os.ReadFile(filepath.Join("testdata", "before", name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			script.Write(before)
			for _, b := range found {
				fmt.Fprintf(&script, "echo '--- %s:%d' >&2\n%s", b.page, b.line, b.text)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-eu")
			cmd.Dir = dir
			cmd.Stdin = strings.NewReader(script.String())
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			report.Linef(t, "%d blocks of commands", len(found))
		})
	}
}

// copyFile copies a file of the work tree. It ignores one that is in git's index only.
var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// anchor returns the name of a heading in links.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9',
			r > 0x7f && !strings.ContainsRune("…’“”", r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestLinks checks that each link within the repository has a target: a file, and a heading in it.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			at := page
			if target != "" {
				at = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(filepath.Join(root, at)); err != nil {
				t.Errorf("%s: link to %s, which does not exist", page, m[1])
				continue
			}
			if fragment == "" || !strings.HasSuffix(at, ".md") {
				continue
			}
			var anchors []string
			for _, h := range heading.FindAllStringSubmatch(read(t, at), -1) {
				anchors = append(anchors, anchor(h[1]))
			}
			if !slices.Contains(anchors, fragment) {
				t.Errorf("%s: link to %s, a heading that %s does not have", page, m[1], at)
			}
		}
	}
}

var (
	uses  = regexp.MustCompile(`uses: (\S+)(.*)`)
	exact = regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40}$`)
)

// TestWorkflows checks that actions are pinned to commits, with the tag in a comment, and that permissions
// are named.
func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no workflows", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range uses.FindAllStringSubmatch(string(text), -1) {
			if !exact.MatchString(m[1]) || !strings.Contains(m[2], "# v") {
				t.Errorf("%s: %s: expected a commit, with its tag in a comment", f, m[1])
			}
		}
		if !regexp.MustCompile(`(?m)^permissions:`).Match(text) {
			t.Errorf("%s: no permissions at the top", f)
		}
		if bytes.Contains(text, []byte("write-all")) {
			t.Errorf("%s: write-all", f)
		}
	}
}

// TestNotices checks that the licences and notices are those of the linked modules.
func TestNotices(t *testing.T) {
	cmd := exec.Command("go", "run", "./internal/tools/notices", "-check")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
