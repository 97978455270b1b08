package lock

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
)

// form is the JSON of a lock.
type form struct {
	Schema   int       `json:"schema"`
	Indexes  []Index   `json:"indexes"`
	Kernel   File      `json:"kernel"`
	Series   []File    `json:"series"` // left out if empty
	Emulator []Package `json:"emulator"`
	Go       []File    `json:"go"` // in the order of [Hosts]
	Packages []Package `json:"packages"`
}

// Bytes returns the canonical form of the lock: one index, file or package a line.
func (l *Lock) Bytes() []byte {
	s := *l
	s.Sort()
	var toolchains []File
	for _, host := range Hosts {
		toolchains = append(toolchains, l.Go.Hosts[host])
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\"schema\": %d,\n\"indexes\": [\n%s],\n", Schema, rows(s.Indexes))
	fmt.Fprintf(&b, "\"kernel\": %s,\n", compact(s.Kernel))
	if len(s.Series) > 0 {
		fmt.Fprintf(&b, "\"series\": [\n%s],\n", rows(s.Series))
	}
	fmt.Fprintf(&b, "\"emulator\": [\n%s],\n", rows(s.Emulator))
	fmt.Fprintf(&b, "\"go\": [\n%s],\n\"packages\": [\n%s]\n}\n", rows(toolchains), rows(s.Packages))
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

// Sort puts all lists of the lock into canonical order, each element once.
func (l *Lock) Sort() {
	l.Indexes = sorted(l.Indexes, func(a, b Index) int {
		return cmp.Or(slices.Index(Parts, a.Part)-slices.Index(Parts, b.Part),
			strings.Compare(a.Archive+" "+a.Suite+" "+a.Component, b.Archive+" "+b.Suite+" "+b.Component))
	})
	l.Series = sorted(l.Series, func(a, b File) int { return debian.Compare(a.Version, b.Version) })
	for _, list := range []*[]Package{&l.Emulator, &l.Packages} {
		*list = sorted(*list, func(a, b Package) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
		})
		for i, p := range *list {
			(*list)[i].Needs = sorted(p.Needs, strings.Compare)
			(*list)[i].Sets = map[string][]string{}
			for host, sets := range p.Sets {
				(*list)[i].Sets[host] = sorted(sets, func(a, b string) int {
					return slices.Index(Sets, a) - slices.Index(Sets, b)
				})
			}
		}
	}
}

func sorted[T any](list []T, compare func(a, b T) int) []T {
	list = slices.Clone(list)
	slices.SortStableFunc(list, compare)
	return slices.CompactFunc(list, func(a, b T) bool { return compare(a, b) == 0 })
}

// Read reads a lock and validates it: canonical form, valid fields, and all packages that a build needs.
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
		return nil, fmt.Errorf("neb.lock: not a lock: %w", err)
	}
	if f.Schema != Schema {
		return nil, fmt.Errorf("neb.lock: unsupported \"schema\": "+
			"expected %d, found %d; use the version of neb that wrote it",
			Schema, f.Schema)
	}
	l, err := f.validate()
	if err != nil {
		return nil, fmt.Errorf("neb.lock: %w", err)
	}
	// This also finds other order and spaces, duplicates, and trailing data.
	if want := l.Bytes(); !bytes.Equal(want, data) {
		same := 0
		for same < min(len(want), len(data)) && want[same] == data[same] {
			same++
		}
		return nil, fmt.Errorf("neb.lock:%d: not in canonical form: undo the edit",
			1+bytes.Count(data[:same], []byte("\n")))
	}
	return l, nil
}

// validate returns the lock that a form describes, or an error about the first invalid field.
func (f *form) validate() (*Lock, error) {
	for _, x := range f.Indexes {
		if err := x.validate(); err != nil {
			return nil, fmt.Errorf("index %s %s of %s: %w", x.Archive, x.Suite, x.Part, err)
		}
	}
	for _, file := range append(slices.Concat(f.Go, f.Series), f.Kernel) {
		if err := file.validate(); err != nil {
			return nil, fmt.Errorf("%s (%s): %w", file.Name, file.Arch, err)
		}
	}
	for _, p := range slices.Concat(f.Emulator, f.Packages) {
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("%s (%s): %w", p.Name, p.Arch, err)
		}
	}
	for _, file := range f.Series {
		if !strings.HasPrefix(file.Name, KernelSource) || file.Name == f.Kernel.Name {
			return nil, fmt.Errorf("series: expected kernel sources other than %s, found %s",
				f.Kernel.Name, file.Name)
		}
	}
	l := &Lock{Indexes: f.Indexes, Kernel: f.Kernel, Series: f.Series, Emulator: f.Emulator,
		Packages: f.Packages,
		Go:       Go{Hosts: map[string]File{}}}
	for i, host := range Hosts {
		if len(f.Go) != len(Hosts) || f.Go[i].Arch != host || f.Go[i].Archive != GoProxy {
			return nil, fmt.Errorf("go: expected one toolchain of archive %s each for %s", GoProxy,
				strings.Join(Hosts, ", "))
		}
		version := strings.TrimSuffix(strings.TrimPrefix(f.Go[i].Version, "v0.0.1-go"), ".linux-"+host)
		if i == 0 {
			l.Go.Version = version
		}
		if want := "v0.0.1-go" + l.Go.Version + ".linux-" + host; f.Go[i].Version != want {
			return nil, fmt.Errorf("go: expected version %s for %s, found %s", want, host, f.Go[i].Version)
		}
		l.Go.Hosts[host] = f.Go[i]
	}
	return l, nil
}

func (x Index) validate() error {
	if err := oneOf("part", x.Part, Parts...); err != nil {
		return err
	}
	if err := oneOf("archive", x.Archive, Debian, Security); err != nil {
		return err
	}
	return validHash(x.SHA256)
}

func (p Package) validate() error {
	if err := p.File.validate(); err != nil {
		return err
	}
	if len(p.Sets) == 0 {
		return fmt.Errorf("no sets")
	}
	for host, sets := range p.Sets {
		if err := oneOf("sets: host", host, Hosts...); err != nil {
			return err
		}
		if p.Arch != "all" && p.Arch != host {
			return fmt.Errorf("sets: host %s cannot use a package for %s", host, p.Arch)
		}
		if len(sets) == 0 {
			return fmt.Errorf("no sets for host %s", host)
		}
		for _, set := range sets {
			if err := oneOf("sets", set, Sets...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f File) validate() error {
	for _, field := range []struct{ name, value string }{
		{"name", f.Name}, {"version", f.Version}, {"arch", f.Arch}, {"path", f.Path},
	} {
		if field.value == "" {
			return fmt.Errorf("field %q is missing or empty", field.name)
		}
		if strings.ContainsFunc(field.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("field %q: expected printable ASCII without blanks, found %q", field.name,
				field.value)
		}
	}
	if err := oneOf("archive", f.Archive, Debian, Security, GoProxy); err != nil {
		return err
	}
	switch {
	case f.Size <= 0:
		return fmt.Errorf("size: expected a positive number of bytes, found %d", f.Size)
	// The path becomes part of URLs, and must not leave the archive.
	case path.Clean("/"+f.Path) != "/"+f.Path || strings.ContainsAny(f.Path, `?#\`):
		return fmt.Errorf("path: expected a plain path below the archive, found %q", f.Path)
	case (f.Archive == GoProxy) != f.Snapshot.IsZero():
		return fmt.Errorf("snapshot: required for Debian's archives, and only for them")
	}
	return validHash(f.SHA256)
}

func oneOf(field, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%s: expected one of %s, found %q", field, strings.Join(allowed, ", "), value)
	}
	return nil
}

func validHash(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return fmt.Errorf("sha256: expected 64 lower-case hexadecimal digits, found %q", s)
	}
	return nil
}

// complete checks that every package is there that a build or another package needs.
func (l *Lock) complete() error {
	for part, packages := range map[string][]Package{PartEmulator: l.Emulator, PartToolchain: l.Packages} {
		in := map[string]bool{} // "host set name"
		for _, p := range packages {
			for host, sets := range p.Sets {
				for _, set := range sets {
					in[host+" "+set+" "+p.Name] = true
				}
			}
		}
		need := func(name, host, set, why string) error {
			if in[host+" "+set+" "+name] {
				return nil
			}
			return fmt.Errorf("neb.lock: package %s is missing: set %s needs it on host %s (%s); run 'neb "+
				"update %s'",
				name, set, host, why, part)
		}
		for _, host := range Hosts {
			for _, r := range RootsOf(part, host) {
				for _, name := range r.Packages {
					if err := need(name, host, r.Set, r.Why); err != nil {
						return err
					}
				}
			}
			for _, p := range packages {
				for _, set := range p.Sets[host] {
					for _, name := range p.Needs {
						if err := need(name, host, set, p.Name); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}
