package lock

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// form is the JSON of a lock.
type form struct {
	Schema   int       `json:"schema"`
	Indexes  []Index   `json:"indexes"`
	Kernel   File      `json:"kernel"`
	Emulator []Package `json:"emulator"`
	Go       []File    `json:"go"` // in the order of [Hosts]
	Packages []Package `json:"packages"`
}

// Bytes returns the canonical form of the lock: one index, file or package a line.
func (l *Lock) Bytes() []byte {
	f := form{Schema, l.Indexes, l.Kernel, l.Emulator, nil, l.Packages}
	for _, host := range Hosts {
		f.Go = append(f.Go, l.Go.Hosts[host])
	}
	return f.bytes()
}

func (f *form) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\"schema\": %d,\n\"indexes\": [\n%s],\n", f.Schema, rows(f.Indexes))
	fmt.Fprintf(&b, "\"kernel\": %s,\n\"emulator\": [\n%s],\n", compact(f.Kernel), rows(f.Emulator))
	fmt.Fprintf(&b, "\"go\": [\n%s],\n\"packages\": [\n%s]\n}\n", rows(f.Go), rows(f.Packages))
	return b.Bytes()
}

// rows returns the elements of a JSON list, one a line.
func rows[T any](list []T) []byte {
	var lines [][]byte
	for _, v := range list {
		lines = append(lines, compact(v))
	}
	if len(lines) == 0 {
		return nil
	}
	return append(bytes.Join(lines, []byte(",\n")), '\n')
}

// compact returns v as one line of JSON, without the escapes for HTML.
func compact(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // v consists of strings, numbers and times of this millennium
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Read reads a lock and validates it: canonical form, valid fields, and all packages that a build needs.
// Errors name the line.
func Read(r io.Reader) (*Lock, error) {
	l, err := Parse(r)
	if err != nil {
		return nil, err
	}
	return l, l.complete()
}

// Parse is Read without the check that all packages are there. Resolving a lock anew starts from such a
// lock, which an older version of neb may have written.
func Parse(r io.Reader) (*Lock, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("neb.lock: %w", err)
	}
	var f form
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, decodeError(data, err)
	}
	if f.Schema != Schema {
		return nil, fmt.Errorf("neb.lock:2: unsupported \"schema\": "+
			"expected %d, found %d; use the version of neb that wrote it",
			Schema, f.Schema)
	}
	// This also finds other order and spaces, duplicate fields, and trailing data.
	if want := f.bytes(); !bytes.Equal(want, data) {
		line, found, expected := firstDifference(data, want)
		return nil, fmt.Errorf("neb.lock:%d: not in canonical form: expected %q, found %q; undo the edit",
			line, expected, found)
	}
	return f.validate()
}

// decodeError adds the line to an error of encoding/json.
func decodeError(data []byte, err error) error {
	at := 0
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		at, err = len(data), errors.New("truncated: the file ends inside a value")
	case errors.As(err, &syntax):
		at, err = int(syntax.Offset)-1, fmt.Errorf("not JSON: %w", err)
	case errors.As(err, &typ):
		at, err = int(typ.Offset)-1, fmt.Errorf("%s: expected %s, found %s", cmp.Or(typ.Field, "lock"),
			typ.Type, typ.Value)
	default: // an unknown field or an invalid time, which the error quotes
		message := strings.TrimPrefix(err.Error(), "json: ")
		if quoted := strings.Split(message, `"`); len(quoted) > 2 {
			at = bytes.Index(data, []byte(`"`+quoted[1]+`"`))
		}
		err = errors.New(message)
	}
	return fmt.Errorf("neb.lock:%d: %w", 1+bytes.Count(data[:max(at, 0)], []byte("\n")), err)
}

// firstDifference finds the first line in which a and b differ, counted from 1.
func firstDifference(a, b []byte) (line int, inA, inB string) {
	as, bs := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	at := func(lines []string, i int) string {
		const most = 160 // for a readable error
		if i >= len(lines) {
			return ""
		}
		return lines[i][:min(len(lines[i]), most)]
	}
	for i := range max(len(as), len(bs)) {
		if i >= len(as) || i >= len(bs) || as[i] != bs[i] {
			return i + 1, at(as, i), at(bs, i)
		}
	}
	return 0, "", ""
}

// Lines of the canonical form, counted from 1.
const firstIndex = 4 // "{", schema and "indexes" precede it

func (f *form) kernelLine() int        { return firstIndex + len(f.Indexes) + 1 } // behind "]"
func (f *form) emulatorLine(i int) int { return f.kernelLine() + 2 + i }          // behind "emulator"
// behind "]" and "go"
func (f *form) goLine(i int) int { return f.emulatorLine(len(f.Emulator)) + 2 + i }

// behind "]" and "packages"
func (f *form) packageLine(i int) int { return f.goLine(len(f.Go)) + 2 + i }

// validate returns the lock that a canonical form describes, or an error about the first invalid field.
func (f *form) validate() (*Lock, error) {
	l := &Lock{Indexes: f.Indexes, Kernel: f.Kernel, Emulator: f.Emulator, Packages: f.Packages}
	fail := func(line int, err error) (*Lock, error) { return nil, fmt.Errorf("neb.lock:%d: %w", line, err) }
	for i, x := range f.Indexes {
		err := x.validate()
		if err == nil && i > 0 && compareIndexes(f.Indexes[i-1], x) >= 0 {
			err = fmt.Errorf("index %s %s of %s is duplicate or out of order", x.Archive, x.Suite, x.Part)
		}
		if err != nil {
			return fail(firstIndex+i, err)
		}
	}
	if err := f.Kernel.validate(); err != nil {
		return fail(f.kernelLine(), err)
	}
	var err error
	for i, toolchain := range f.Go {
		if l.Go, err = addToolchain(l.Go, toolchain); err != nil {
			return fail(f.goLine(i), err)
		}
	}
	for _, host := range Hosts {
		if _, ok := l.Go.Hosts[host]; !ok {
			return nil, fmt.Errorf("neb.lock: the Go toolchain for host %s is missing", host)
		}
	}
	for _, list := range f.lists() {
		for i, p := range list.packages {
			err := p.validate()
			if err == nil && i > 0 && compareFiles(list.packages[i-1].File, p.File) >= 0 {
				err = fmt.Errorf("package %s (%s) is duplicate or out of order after %s", p.Name, p.Arch,
					list.packages[i-1].Name)
			}
			if err != nil {
				return fail(list.line(i), err)
			}
		}
	}
	return l, nil
}

// list is one of the two lists of packages.
type list struct {
	part     string // that resolves it
	packages []Package
	line     func(i int) int
}

func (f *form) lists() []list {
	return []list{{PartEmulator, f.Emulator, f.emulatorLine}, {PartToolchain, f.Packages, f.packageLine}}
}

func (x Index) validate() error {
	switch {
	case !slices.Contains(Parts, x.Part):
		return fmt.Errorf("part: expected one of %s, found %q", strings.Join(Parts, ", "), x.Part)
	case x.Archive != Debian && x.Archive != Security:
		return fmt.Errorf("archive: expected %s or %s, found %q", Debian, Security, x.Archive)
	case x.Suite == "" || x.Component == "":
		return fmt.Errorf("index of %s: suite or component is missing", x.Part)
	}
	return validHash(x.SHA256)
}

// addToolchain adds the Go toolchain of a host.
func addToolchain(g Go, f File) (Go, error) {
	if err := f.validate(); err != nil {
		return g, err
	}
	version, ok := strings.CutPrefix(f.Version, "v0.0.1-go")
	version, ok2 := strings.CutSuffix(version, ".linux-"+f.Arch)
	if !ok || !ok2 || f.Archive != GoProxy {
		return g, fmt.Errorf("%s: expected version v0.0.1-goVERSION.linux-%s of archive %s, "+
			"found %q of archive %s",
			f.Name, f.Arch, GoProxy, f.Version, f.Archive)
	}
	if n := len(g.Hosts); n == len(Hosts) || f.Arch != Hosts[n] {
		return g, fmt.Errorf("%s: arch: expected one toolchain each for %s, found %q",
			f.Name, strings.Join(Hosts, ", "), f.Arch)
	}
	if g.Version != "" && g.Version != version {
		return g, fmt.Errorf("%s: expected version %s for all hosts, found %s", f.Name, g.Version, version)
	}
	if g.Hosts == nil {
		g.Hosts = map[string]File{}
	}
	g.Version, g.Hosts[f.Arch] = version, f
	return g, nil
}

func (p Package) validate() error {
	if err := p.File.validate(); err != nil {
		return err
	}
	if len(p.Sets) == 0 {
		return fmt.Errorf("%s: no sets", p.Name)
	}
	for host, sets := range p.Sets {
		if !slices.Contains(Hosts, host) {
			return fmt.Errorf("%s: sets: expected hosts %s, found %q", p.Name, strings.Join(Hosts, ", "),
				host)
		}
		if p.Arch != "all" && p.Arch != host {
			return fmt.Errorf("%s: sets: host %s cannot use a package for %s", p.Name, host, p.Arch)
		}
		if len(sets) == 0 {
			return fmt.Errorf("%s: no sets for host %s", p.Name, host)
		}
		last := -1
		for _, set := range sets {
			i := slices.Index(Sets, set)
			if i < 0 {
				return fmt.Errorf("%s: sets: expected some of %s, found %q", p.Name, strings.Join(Sets, ", "),
					set)
			}
			if i <= last {
				return fmt.Errorf("%s: sets: %q is duplicate or out of order", p.Name, set)
			}
			last = i
		}
	}
	for i := 1; i < len(p.Needs); i++ {
		if p.Needs[i-1] >= p.Needs[i] {
			return fmt.Errorf("%s: needs: %q is duplicate or out of order", p.Name, p.Needs[i])
		}
	}
	return nil
}

func (f File) validate() error {
	for _, field := range []struct{ name, value string }{
		{"name", f.Name}, {"version", f.Version}, {"arch", f.Arch}, {"archive", f.Archive}, {"path", f.Path},
	} {
		if field.value == "" {
			return fmt.Errorf("%s: field %q is missing or empty", f.Name, field.name)
		}
		if strings.ContainsFunc(field.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%s: field %q: expected printable ASCII without blanks, found %q",
				f.Name, field.name, field.value)
		}
	}
	if err := validHash(f.SHA256); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	if f.Size <= 0 {
		return fmt.Errorf("%s: size: expected a positive number of bytes, found %d", f.Name, f.Size)
	}
	// The path becomes part of URLs, and must not leave the archive.
	if path.Clean("/"+f.Path) != "/"+f.Path || strings.ContainsAny(f.Path, `?#\`) {
		return fmt.Errorf("%s: path: expected a plain path below the archive, found %q", f.Name, f.Path)
	}
	switch {
	case f.Archive != Debian && f.Archive != Security && f.Archive != GoProxy:
		return fmt.Errorf("%s: archive: expected %s, %s or %s, found %q", f.Name, Debian, Security, GoProxy,
			f.Archive)
	case (f.Archive == GoProxy) != f.Snapshot.IsZero():
		return fmt.Errorf("%s: snapshot: required for Debian's archives, and only for them", f.Name)
	}
	return nil
}

func validHash(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return fmt.Errorf("sha256: expected 64 lower-case hexadecimal digits, found %q", s)
	}
	return nil
}

func compareIndexes(a, b Index) int {
	return cmp.Or(slices.Index(Parts, a.Part)-slices.Index(Parts, b.Part),
		strings.Compare(a.Archive+" "+a.Suite+" "+a.Component, b.Archive+" "+b.Suite+" "+b.Component))
}

func compareFiles(a, b File) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
}

// complete checks that every package is there that a build or another package needs.
func (l *Lock) complete() error {
	f := form{Indexes: l.Indexes, Emulator: l.Emulator, Go: make([]File, len(Hosts)), Packages: l.Packages}
	for _, list := range f.lists() {
		if err := list.complete(); err != nil {
			return err
		}
	}
	return nil
}

func (l list) complete() error {
	in := map[string]bool{} // "host set name"
	for _, p := range l.packages {
		for host, sets := range p.Sets {
			for _, set := range sets {
				in[host+" "+set+" "+p.Name] = true
			}
		}
	}
	for _, host := range Hosts {
		for _, r := range Roots {
			if r.Part() != l.part || r.Host != "" && r.Host != host {
				continue
			}
			for _, name := range r.Packages {
				if !in[host+" "+r.Set+" "+name] {
					return fmt.Errorf("neb.lock: package %s is missing: set %s needs it on host %s (%s); "+
						"run 'neb update %s'", name, r.Set, host, r.Why, l.part)
				}
			}
		}
	}
	for i, p := range l.packages {
		for _, host := range Hosts {
			for _, set := range p.Sets[host] {
				for _, need := range p.Needs {
					if !in[host+" "+set+" "+need] {
						return fmt.Errorf("neb.lock:%d: package %s is missing: "+
							"%s in set %s needs it on host %s; "+
							"run 'neb update %s'", l.line(i), need, p.Name, set, host, l.part)
					}
				}
			}
		}
	}
	return nil
}
