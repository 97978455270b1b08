package lock

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// The JSON of a lock. Field order here is field order in the file.
type (
	indexForm struct {
		Part      string `json:"part"`
		Archive   string `json:"archive"`
		Suite     string `json:"suite"`
		Component string `json:"component"`
		Date      string `json:"date"`
		SHA256    string `json:"sha256"`
	}
	fileForm struct {
		Name     string `json:"name"`
		Version  string `json:"version"`
		Arch     string `json:"arch"`
		Archive  string `json:"archive"`
		Path     string `json:"path"`
		Snapshot string `json:"snapshot,omitempty"`
		Size     int64  `json:"size"`
		SHA256   string `json:"sha256"`
	}
	packageForm struct {
		fileForm
		Sets  map[string][]string `json:"sets"`
		Needs []string            `json:"needs,omitempty"`
	}
)

// Bytes returns the lock in its one form.
func (l *Lock) Bytes() []byte {
	var b bytes.Buffer
	rows := func(key string, n int, row func(int) any) {
		fmt.Fprintf(&b, "%q: [\n", key)
		for i := range n {
			b.Write(oneLine(row(i)))
			if i < n-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteByte(']')
	}
	fmt.Fprintf(&b, "{\n\"schema\": %d,\n", Schema)
	rows("indexes", len(l.Indexes), func(i int) any { return l.Indexes[i].form() })
	fmt.Fprintf(&b, ",\n\"kernel\": %s,\n", oneLine(l.Kernel.form()))
	fmt.Fprintf(&b, "\"emulator\": %s,\n", oneLine(l.Emulator.form()))
	rows("go", len(Hosts), func(i int) any { return l.Go.Hosts[Hosts[i]].form() })
	b.WriteString(",\n")
	rows("packages", len(l.Packages), func(i int) any {
		p := l.Packages[i]
		return packageForm{p.File.form(), p.Sets, p.Needs}
	})
	b.WriteString("\n}\n")
	return b.Bytes()
}

// oneLine is v as JSON without line breaks and without the escapes that are only there for HTML.
func oneLine(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // the forms hold strings and numbers only
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func (f File) form() fileForm {
	form := fileForm{f.Name, f.Version, f.Arch, f.Archive, f.Path, "", f.Size, f.SHA256}
	if !f.Snapshot.IsZero() {
		form.Snapshot = f.Snapshot.UTC().Format(time.RFC3339)
	}
	return form
}

func (x Index) form() indexForm {
	return indexForm{x.Part, x.Archive, x.Suite, x.Component, x.Date.UTC().Format(time.RFC3339), x.SHA256}
}

// Read reads a lock and checks that it is whole: in its one form, every field right, every package that a build
// needs there. Errors name the line.
func Read(r io.Reader) (*Lock, error) {
	l, err := Parse(r)
	if err != nil {
		return nil, err
	}
	return l, l.complete()
}

// Parse is Read without the question whether every package is there that this version of neb needs: what
// resolving a lock anew starts from.
func Parse(r io.Reader) (*Lock, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("neb.lock: %w", err)
	}
	p := parser{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	l, err := p.lock()
	if err != nil {
		return nil, err
	}
	// Whatever is left (order, spaces, a key twice, something after the end) shows as a difference in form.
	if want := l.Bytes(); !bytes.Equal(want, data) {
		line, found, expected := firstDifference(data, want)
		return nil, fmt.Errorf("neb.lock:%d: not in the form that neb writes: expected %q, found %q; undo the edit", line, expected, found)
	}
	return l, nil
}

// firstDifference finds the first line in which a and b differ, counted from 1.
func firstDifference(a, b []byte) (line int, inA, inB string) {
	as, bs := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	at := func(lines []string, i int) string {
		if i >= len(lines) {
			return ""
		}
		return abridge(lines[i])
	}
	for i := range max(len(as), len(bs)) {
		if i >= len(as) || i >= len(bs) || as[i] != bs[i] {
			return i + 1, at(as, i), at(bs, i)
		}
	}
	return 0, "", ""
}

// abridge keeps an error to a readable length.
func abridge(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// A parser walks the JSON by tokens, for the sake of line numbers in its errors.
type parser struct {
	data []byte
	dec  *json.Decoder
	at   int64 // offset of what is being looked at
}

func (p *parser) lock() (*Lock, error) {
	l := &Lock{Go: Go{Hosts: map[string]File{}}}
	schema := 0
	fields := map[string]func() error{
		"schema": func() error {
			if err := p.value(&schema); err != nil {
				return err
			}
			if schema != Schema {
				return p.errorf("schema version: expected %d, found %d; use the neb that this lock was made for", Schema, schema)
			}
			return nil
		},
		"indexes":  func() error { return p.list(func() error { return p.index(l) }) },
		"kernel":   func() (err error) { l.Kernel, err = p.file(); return err },
		"emulator": func() (err error) { l.Emulator, err = p.file(); return err },
		"go":       func() error { return p.list(func() error { return p.toolchain(l) }) },
		"packages": func() error { return p.list(func() error { return p.pkg(l) }) },
	}
	if err := p.expect(json.Delim('{')); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for p.dec.More() {
		token, err := p.token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		read, known := fields[key]
		switch {
		case !known:
			return nil, p.errorf("unknown field %q", key)
		case seen[key]:
			return nil, p.errorf("field %q is there twice", key)
		case key != "schema" && schema == 0:
			return nil, p.errorf("expected the field \"schema\" first, found %q", key)
		}
		seen[key] = true
		if err := read(); err != nil {
			return nil, err
		}
	}
	if err := p.expect(json.Delim('}')); err != nil {
		return nil, err
	}
	for key := range fields {
		if !seen[key] {
			return nil, p.errorf("field %q is missing", key)
		}
	}
	for _, host := range Hosts {
		if _, ok := l.Go.Hosts[host]; !ok {
			return nil, p.errorf("the Go toolchain for host %s is missing", host)
		}
	}
	return l, nil
}

func (p *parser) errorf(format string, args ...any) error {
	// Between a decoder's token and the next stand blanks and commas: the thing itself is behind them.
	at := int(min(p.at, int64(len(p.data))))
	for at < len(p.data) && strings.IndexByte(" \t\r\n,:", p.data[at]) >= 0 {
		at++
	}
	return fmt.Errorf("neb.lock:%d: %w", 1+bytes.Count(p.data[:at], []byte("\n")), fmt.Errorf(format, args...))
}

// wrong turns an error of the decoder into one with a line.
func (p *parser) wrong(err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		p.at = int64(len(p.data))
		return p.errorf("the file ends too early: is it truncated?")
	case errors.As(err, &syntax):
		p.at = max(p.at, syntax.Offset-1)
		return p.errorf("not JSON: %v", err)
	case errors.As(err, &typ):
		return p.errorf("field %q: expected %s, found %s", typ.Field, typ.Type, typ.Value)
	}
	return p.errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
}

func (p *parser) token() (json.Token, error) {
	p.at = p.dec.InputOffset()
	token, err := p.dec.Token()
	if err != nil {
		return nil, p.wrong(err)
	}
	return token, nil
}

func (p *parser) expect(want json.Delim) error {
	token, err := p.token()
	if err != nil {
		return err
	}
	if token != want {
		return p.errorf("expected %q, found %q", want.String(), fmt.Sprint(token))
	}
	return nil
}

// value reads the next value into v, strictly.
func (p *parser) value(v any) error {
	p.at = p.dec.InputOffset()
	var raw json.RawMessage
	if err := p.dec.Decode(&raw); err != nil {
		return p.wrong(err)
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(v); err != nil {
		return p.wrong(err)
	}
	return nil
}

func (p *parser) list(element func() error) error {
	if err := p.expect('['); err != nil {
		return err
	}
	for p.dec.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return p.expect(']')
}

func (p *parser) index(l *Lock) error {
	var form indexForm
	if err := p.value(&form); err != nil {
		return err
	}
	date, err := time.Parse(time.RFC3339, form.Date)
	if err != nil {
		return p.errorf("date: expected the form 2006-01-02T15:04:05Z, found %q", form.Date)
	}
	if !slices.Contains(Parts, form.Part) {
		return p.errorf("part: expected one of %s, found %q", strings.Join(Parts, ", "), form.Part)
	}
	if form.Archive != Debian && form.Archive != Security {
		return p.errorf("archive: expected %s or %s, found %q", Debian, Security, form.Archive)
	}
	if form.Suite == "" || form.Component == "" {
		return p.errorf("an index of %s without suite or component", form.Part)
	}
	if err := checkHash(form.SHA256); err != nil {
		return p.errorf("%w", err)
	}
	x := Index{form.Part, form.Archive, form.Suite, form.Component, date, form.SHA256}
	if n := len(l.Indexes); n > 0 && compareIndexes(l.Indexes[n-1], x) >= 0 {
		return p.errorf("index %s %s of %s is there twice or out of order", x.Archive, x.Suite, x.Part)
	}
	l.Indexes = append(l.Indexes, x)
	return nil
}

func (p *parser) file() (File, error) {
	var form fileForm
	if err := p.value(&form); err != nil {
		return File{}, err
	}
	return p.checked(form)
}

func (p *parser) toolchain(l *Lock) error {
	f, err := p.file()
	if err != nil {
		return err
	}
	version, ok := strings.CutPrefix(f.Version, "v0.0.1-go")
	if !ok || f.Archive != GoProxy || !strings.HasSuffix(version, ".linux-"+f.Arch) {
		return p.errorf("%s: expected a version v0.0.1-goVERSION.linux-%s of archive %s, found %q of archive %s", f.Name, f.Arch, GoProxy, f.Version, f.Archive)
	}
	version = strings.TrimSuffix(version, ".linux-"+f.Arch)
	if _, twice := l.Go.Hosts[f.Arch]; twice {
		return p.errorf("the Go toolchain for host %s is there twice", f.Arch)
	}
	if !slices.Contains(Hosts, f.Arch) {
		return p.errorf("arch: expected one of %s, found %q", strings.Join(Hosts, ", "), f.Arch)
	}
	if l.Go.Version != "" && l.Go.Version != version {
		return p.errorf("Go toolchain: expected version %s as for the other host, found %s", l.Go.Version, version)
	}
	l.Go.Version = version
	l.Go.Hosts[f.Arch] = f
	return nil
}

func (p *parser) pkg(l *Lock) error {
	var form packageForm
	if err := p.value(&form); err != nil {
		return err
	}
	f, err := p.checked(form.fileForm)
	if err != nil {
		return err
	}
	if len(form.Sets) == 0 {
		return p.errorf("%s: no sets", f.Name)
	}
	for host, sets := range form.Sets {
		if !slices.Contains(Hosts, host) {
			return p.errorf("%s: sets: expected hosts %s, found %q", f.Name, strings.Join(Hosts, ", "), host)
		}
		if f.Arch != "all" && f.Arch != host {
			return p.errorf("%s: sets: a package for %s cannot be used on host %s", f.Name, f.Arch, host)
		}
		last := -1
		for _, set := range sets {
			i := slices.Index(Sets, set)
			if i < 0 {
				return p.errorf("%s: sets: expected some of %s, found %q", f.Name, strings.Join(Sets, ", "), set)
			}
			if i <= last {
				return p.errorf("%s: sets: %q is there twice or out of order", f.Name, set)
			}
			last = i
		}
		if last < 0 {
			return p.errorf("%s: no sets for host %s", f.Name, host)
		}
	}
	if !slices.IsSorted(form.Needs) || len(slices.Compact(slices.Clone(form.Needs))) != len(form.Needs) {
		return p.errorf("%s: needs: a name is there twice or out of order", f.Name)
	}
	if n := len(l.Packages); n > 0 {
		switch before := l.Packages[n-1]; compareFiles(before.File, f) {
		case 0:
			return p.errorf("package %s (%s) is there twice", f.Name, f.Arch)
		case 1:
			return p.errorf("package %s (%s) is out of order: it belongs before %s", f.Name, f.Arch, before.Name)
		}
	}
	l.Packages = append(l.Packages, Package{f, form.Sets, form.Needs})
	return nil
}

// checked is the file that a form describes, if every field is right.
func (p *parser) checked(form fileForm) (File, error) {
	f := File{Name: form.Name, Version: form.Version, Arch: form.Arch, Archive: form.Archive, Path: form.Path, Size: form.Size, SHA256: form.SHA256}
	for _, field := range []struct{ name, value string }{
		{"name", f.Name}, {"version", f.Version}, {"arch", f.Arch}, {"archive", f.Archive}, {"path", f.Path},
	} {
		if field.value == "" {
			return File{}, p.errorf("%s: field %q is missing or empty", f.Name, field.name)
		}
		if strings.ContainsFunc(field.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return File{}, p.errorf("%s: field %q: expected printable ASCII without blanks, found %q", f.Name, field.name, field.value)
		}
	}
	if err := checkHash(f.SHA256); err != nil {
		return File{}, p.errorf("%s: %w", f.Name, err)
	}
	if f.Size <= 0 {
		return File{}, p.errorf("%s: size: expected a number of bytes above 0, found %d", f.Name, f.Size)
	}
	// The path goes into URLs: it stays below the archive.
	if path.Clean("/"+f.Path) != "/"+f.Path || strings.ContainsAny(f.Path, `?#\`) {
		return File{}, p.errorf("%s: path: expected a plain path below the archive, found %q", f.Name, f.Path)
	}
	switch f.Archive {
	case GoProxy:
		if form.Snapshot != "" {
			return File{}, p.errorf("%s: snapshot: the archive %s has none", f.Name, GoProxy)
		}
	case Debian, Security:
		t, err := time.Parse(time.RFC3339, form.Snapshot)
		if err != nil {
			return File{}, p.errorf("%s: snapshot: expected the form 2006-01-02T15:04:05Z, found %q", f.Name, form.Snapshot)
		}
		f.Snapshot = t
	default:
		return File{}, p.errorf("%s: archive: expected %s, %s or %s, found %q", f.Name, Debian, Security, GoProxy, f.Archive)
	}
	return f, nil
}

// checkHash says what is wrong with the form of a SHA-256.
func checkHash(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return fmt.Errorf("sha256: expected 64 lower-case hexadecimal digits, found %q", s)
	}
	return nil
}

func compareIndexes(a, b Index) int {
	if c := slices.Index(Parts, a.Part) - slices.Index(Parts, b.Part); c != 0 {
		return c
	}
	return strings.Compare(a.Archive+" "+a.Suite+" "+a.Component, b.Archive+" "+b.Suite+" "+b.Component)
}

func compareFiles(a, b File) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return strings.Compare(a.Arch, b.Arch)
}

// complete says what a lock lacks: a package that a build wants for itself, or one that another depends on.
func (l *Lock) complete() error {
	in := map[string]bool{} // "host set name"
	for _, p := range l.Packages {
		for host, sets := range p.Sets {
			for _, set := range sets {
				in[host+" "+set+" "+p.Name] = true
			}
		}
	}
	for _, host := range Hosts {
		for _, set := range Sets {
			for _, r := range Roots {
				if r.Set != set || r.Host != "" && r.Host != host {
					continue
				}
				for _, name := range r.Packages {
					if !in[host+" "+set+" "+name] {
						return fmt.Errorf("neb.lock: package %s is missing: expected it in set %s for host %s (%s); run 'neb update toolchain'", name, set, host, r.Why)
					}
				}
			}
		}
	}
	// The line of a package: the packages are the last list, one a line, and two lines close the file.
	first := bytes.Count(l.Bytes(), []byte("\n")) - 2 - len(l.Packages) + 1
	for i, p := range l.Packages {
		for _, host := range Hosts {
			for _, set := range p.Sets[host] {
				for _, need := range p.Needs {
					if !in[host+" "+set+" "+need] {
						return fmt.Errorf("neb.lock:%d: package %s is missing: %s, which is in set %s for host %s, needs it; run 'neb update toolchain'", first+i, need, p.Name, set, host)
					}
				}
			}
		}
	}
	return nil
}
