// Command notices writes NOTICE, THIRD_PARTY_LICENSES and internal/release/licences.json: the licences of
// the modules that are linked into neb's programs, and of the locked kernel. Run it as 'make notices'.
//
// It prints the names of the files that it writes. With -check it writes nothing and reports files that are
// out of date.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// The programs that are shipped, and the architectures that they are built for.
var (
	programs      = []string{"./cmd/neb", "./cmd/init", "./cmd/linuxkit"}
	architectures = []string{"amd64", "arm64"}
)

func main() {
	source := flag.String("C", ".", "the source tree")
	check := flag.Bool("check", false, "write nothing, fail if a file differs")
	flag.Parse()
	if err := run(*source, *check, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "notices: %v\n", err)
		os.Exit(1)
	}
}

func run(source string, check bool, out io.Writer) error {
	modules, err := linked(source)
	if err != nil {
		return err
	}
	lockFile, err := os.Open(filepath.Join(source, "neb.lock"))
	if err != nil {
		return err
	}
	defer lockFile.Close()
	l, err := lock.Read(lockFile)
	if err != nil {
		return err
	}
	goLicence, err := goLicence(source)
	if err != nil {
		return err
	}
	third, ids, err := thirdParty(modules, goLicence)
	if err != nil {
		return err
	}
	var differ []error
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"NOTICE", notice(l)},
		{"THIRD_PARTY_LICENSES", third},
		{"internal/release/licences.json", ids},
	} {
		path := filepath.Join(source, filepath.FromSlash(f.name))
		old, err := os.ReadFile(path)
		if err == nil && bytes.Equal(old, f.data) {
			continue
		}
		if check {
			differ = append(differ, fmt.Errorf("%s: out of date: run 'make notices'", f.name))
			continue
		}
		if err := os.WriteFile(path, f.data, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(out, f.name)
	}
	return errors.Join(differ...)
}

// module is a module as 'go list' describes it.
type module struct {
	Path, Version, Dir string
	Main               bool

	packages []string // directories of its linked packages
}

// linked returns the modules that are linked into the programs, sorted by path.
func linked(source string) ([]module, error) {
	byPath := map[string]module{}
	for _, arch := range architectures {
		args := append([]string{"list", "-deps", "-json=Dir,Module"}, programs...)
		cmd := exec.Command("go", args...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w\n%s", err, stderr.String())
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				Dir    string
				Module *module
			}
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("go list: %w", err)
			}
			if p.Module != nil && !p.Module.Main {
				m := *p.Module
				m.packages = append(byPath[m.Path].packages, p.Dir)
				byPath[m.Path] = m
			}
		}
	}
	var modules []module
	for _, m := range byPath {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return modules, nil
}

func goLicence(source string) (string, error) {
	cmd := exec.Command("go", "env", "GOROOT")
	cmd.Dir = source
	root, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	return string(text), err
}

// licenceFile matches the names of files with licence terms.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|unlicense|patents)([-._].*)?$`)

// marks lists sentences that identify a licence. A text may contain several licences.
var marks = []struct {
	id       string
	has, not *regexp.Regexp
}{
	{"Apache-2.0", regexp.MustCompile(`Apache License,?\s+Version 2\.0`), nil},
	{"BSD-3-Clause", regexp.MustCompile(`Redistribution and use in source and binary forms(?s:.*)(Neither the name|The name of the author may not)`), nil},
	{"BSD-2-Clause", regexp.MustCompile(`Redistribution and use in source and binary forms`),
		regexp.MustCompile(`Neither the name|The name of the author may not`)},
	{"MIT", regexp.MustCompile(`Permission is hereby granted, free of charge, to any person obtaining`), nil},
	{"ISC", regexp.MustCompile(`Permission to use, copy, modify, and(/or)? distribute this software for any`),
		nil},
	{"MPL-2.0", regexp.MustCompile(`Mozilla Public License,? [Vv]ersion 2\.0`), nil},
	{"CC0-1.0", regexp.MustCompile(`CC0 1\.0 Universal`), nil},
}

// identify returns the licences in a text as an SPDX expression, or "".
func identify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	var ids []string
	for _, m := range marks {
		if m.has.MatchString(text) && (m.not == nil || !m.not.MatchString(text)) {
			ids = append(ids, m.id)
		}
	}
	return strings.Join(ids, " AND ")
}

// thirdParty returns the text of all licences, each once with the modules it is for, and the table of their
// identifiers.
func thirdParty(modules []module, goText string) (text, table []byte, err error) {
	ids := map[string]string{}
	type terms struct {
		id, text string
		names    []string
	}
	// Without the version of Go, which changes with the lock.
	sections := []*terms{{identify(goText), goText, []string{"The Go standard library"}}}
	for _, m := range modules {
		id, text, err := m.terms()
		if err != nil {
			return nil, nil, err
		}
		ids[m.Path+"@"+m.Version] = id
		i := slices.IndexFunc(sections, func(t *terms) bool { return t.text == text })
		if i < 0 {
			sections = append(sections, &terms{id: id, text: text})
			i = len(sections) - 1
		}
		sections[i].names = append(sections[i].names, m.Path+" "+m.Version)
	}
	var b bytes.Buffer
	b.WriteString("Generated by 'make notices': what is linked into neb, init and linuxkit, with its " +
		"licences.\n")
	for _, t := range sections {
		fmt.Fprintf(&b, "\n%s\n%s\nLicence: %s\n\n%s\n", strings.Repeat("=", 80), strings.Join(t.names, "\n"),
			t.id, strings.TrimSpace(t.text))
	}
	table, err = json.MarshalIndent(ids, "", "  ")
	return b.Bytes(), append(table, '\n'), err
}

// directories returns where a module may have licences for what is linked: its root and all directories
// from there to each linked package, which may have another author. They are sorted, the root first.
func (m module) directories() []string {
	seen := map[string]bool{m.Dir: true}
	for _, dir := range m.packages {
		for ; !seen[dir] && strings.HasPrefix(dir, m.Dir); dir = filepath.Dir(dir) {
			seen[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// terms returns the licences of a module as an SPDX expression, and the text of all licence files.
func (m module) terms() (id, text string, err error) {
	var ids, texts []string
	for _, dir := range m.directories() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", "", fmt.Errorf("module %s: %w: run 'go mod download'", m.Path, err)
		}
		known := false // the first known licence of a directory counts
		for _, e := range entries {
			if e.IsDir() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			path := filepath.Join(dir, e.Name())
			t, err := os.ReadFile(path)
			if err != nil {
				return "", "", err
			}
			name, err := filepath.Rel(m.Dir, path)
			if err != nil {
				return "", "", err
			}
			texts = append(texts, filepath.ToSlash(name)+":\n\n"+
				strings.TrimSpace(strings.ReplaceAll(string(t), "\r\n", "\n")))
			if found := identify(string(t)); found != "" && !known {
				known = true
				ids = append(ids, strings.Split(found, " AND ")...)
			}
		}
		if dir == m.Dir && !known {
			return "", "", fmt.Errorf("module %s@%s: unknown licence in %s: "+
				"add a mark to internal/tools/notices",
				m.Path, m.Version, m.Dir)
		}
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " AND "), strings.Join(texts, "\n\n"), nil
}

// notice returns the content of NOTICE: the licences, and the source of the parts under the GPL.
func notice(l *lock.Lock) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `neb, Nitro Enclaves Bootstrap
Copyright the authors of neb

Licensed under the Apache License, Version 2.0 (LICENSE), with the exceptions named here.
Generated by 'make notices' from neb.lock and the modules that the programs are built of.

Kernel and NSM driver (bzImage, Image, their .config, nsm.ko)
    are Linux, under GPL-2.0-only WITH Linux-syscall-note (both in LICENSES).
    Source:  Debian's package %s %s, named with its SHA-256 in neb.lock;
             a release has it next to its archive, and snapshot.debian.org keeps it.
    Changes: kernel/patches, under GPL-2.0:
`, l.Kernel.Name, l.Kernel.Version)
	for _, p := range kernel.Patches() {
		fmt.Fprintf(&b, "             %s\n", p.Name)
	}
	b.WriteString(`    Configuration: next to each kernel, made from kernel/fragments.

neb, init and linuxkit
    are our own, and contain the Go standard library and the Go modules listed with their licences in
    THIRD_PARTY_LICENSES.

The toolchain and the emulator that neb downloads stay on the machine that downloads them, and are not part of
its output. Each Debian package has its licence in usr/share/doc.
`)
	return b.Bytes()
}
