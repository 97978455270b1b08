package lock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// RebuildState is what others found when they built a package again.
type RebuildState string

const (
	Unknown    RebuildState = "unknown"    // nobody has tried, or it could not be built
	Reproduced RebuildState = "reproduced" // others built the same package from its source
	Differs    RebuildState = "differs"    // others got different bytes from its source
)

// Rebuild is what is known about building a locked package again.
type Rebuild struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Arch    string       `json:"arch"`
	State   RebuildState `json:"state"`
}

// maxResult is the largest result of one package, in bytes.
const maxResult = 1 << 20

// Audit looks up every Debian package of the lock in files with results: JSON lists as rebuilderd serves them
// at /api/v0/pkgs/list (PkgRelease in its common/src/api), and reproduce.debian.net for each architecture. A
// package that was built several times counts as [Differs] if one result is bad.
func (l *Lock) Audit(paths ...string) ([]Rebuild, error) {
	var list []Rebuild
	place := map[[3]string]int{} // in list, by name, version and architecture
	for _, f := range l.All() {
		if f.Archive != GoProxy {
			place[[3]string{f.Name, f.Version, f.Arch}] = len(list)
			list = append(list, Rebuild{f.Name, f.Version, f.Arch, Unknown})
		}
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		err = audit(f, place, list)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return list, nil
}

// audit sets the states that a file has results for. It keeps one result at a time in memory.
func audit(f io.Reader, place map[[3]string]int, list []Rebuild) error {
	in := &io.LimitedReader{R: f, N: maxResult}
	dec := json.NewDecoder(in)
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return errors.New("expected a list of results, as rebuilderd serves it at /api/v0/pkgs/list")
	}
	for n := 1; dec.More(); n++ {
		var r struct{ Name, Version, Architecture, Status string }
		if err := dec.Decode(&r); err != nil {
			return fmt.Errorf("result %d: expected an object of at most %d bytes: %w", n, maxResult, err)
		}
		in.N = maxResult // of the next result: the whole list may be larger
		i, locked := place[[3]string{r.Name, r.Version, r.Architecture}]
		switch {
		case r.Status != "GOOD" && r.Status != "BAD" && r.Status != "UNKWN":
			return fmt.Errorf("result %d: status: expected GOOD, BAD or UNKWN, found %.40q", n, r.Status)
		case !locked:
		case r.Status == "BAD":
			list[i].State = Differs
		case r.Status == "GOOD" && list[i].State == Unknown:
			list[i].State = Reproduced
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("expected the end of the list: %w", err)
	}
	return nil
}
