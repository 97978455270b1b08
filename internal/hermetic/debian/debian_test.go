package debian

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	// Each version is older than the next.
	for _, row := range []string{
		"0~~ 0~ 0 0a 0+ 0.0 1",
		"1.0~rc1 1.0 1.0-1 1.0-1+b1 1.0-1+deb13u1 1.0-1.1 1.0-2 1.0a 1.0+dfsg-1 1.0.1-1 1:0.1",
		"6.12.9-1 6.12.10-1 6.12.117-1 6.12.117-1+deb13u1 6.12.118~rc1-1 6.12.118-1",
		"14.2.0-8 14.2.0-19 14.2.0-19cross1 14.2.1-1",
		"1:10.0.13+ds-0 1:10.0.13+ds-0+deb13u1 2:0",
		"2.41-12+deb13u5 2.41-12+deb13u10",
		"1.0-1-1 1.0-1-2",
		"99999999999999999999998 99999999999999999999999",
		"1.1 1.002 1.10",
	} {
		versions := strings.Fields(row)
		for i, a := range versions {
			for j, b := range versions {
				c := Compare(a, b)
				if (c < 0) != (i < j) || (c > 0) != (i > j) {
					t.Errorf("%s, %s: found %d", a, b, c)
				}
			}
		}
	}
	for _, equal := range []string{"1 0:1", "1 1-0", "01 1", "1.0 1.00", "0:1-0 1"} {
		v := strings.Fields(equal)
		if Compare(v[0], v[1]) != 0 || Compare(v[1], v[0]) != 0 {
			t.Errorf("%s: expected to be equal", equal)
		}
	}
}

func TestRelations(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  [][]Relation
	}{
		{"", nil},
		{"libc6", [][]Relation{{{Name: "libc6"}}}},
		{"libc6 (>= 2.38), libgcc-s1 (>=3.0) | gcc:any,\n python3:any (<< 3.14~)", [][]Relation{
			{{Name: "libc6", Op: ">=", Version: "2.38"}},
			{{Name: "libgcc-s1", Op: ">=", Version: "3.0"}, {Name: "gcc", Arch: "any"}},
			{{Name: "python3", Arch: "any", Op: "<<", Version: "3.14~"}},
		}},
		{"a (= 1:2-3), b (>> 1), c (<= 1), d (< 1), e (> 1),", [][]Relation{
			{{Name: "a", Op: "=", Version: "1:2-3"}}, {{Name: "b", Op: ">>", Version: "1"}}, {{Name: "c",
				Op: "<=", Version: "1"}},
			{{Name: "d", Op: "<=", Version: "1"}}, {{Name: "e", Op: ">=", Version: "1"}},
		}},
	} {
		got, err := Relations(tt.value)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: expected %v, found %v (%v)", tt.value, tt.want, got, err)
		}
	}
	for _, bad := range []string{"a b", "a (1)", "a (>= )", "a (>= 1", "(>= 1)", "a | ", "a (~ 1)",
		"a [amd64]", "a <!nocheck>", "a (>= 1 2)"} {
		if got, err := Relations(bad); err == nil {
			t.Errorf("%q: expected an error, found %v", bad, got)
		}
	}
}

func TestMet(t *testing.T) {
	for _, tt := range []struct {
		relation, version string
		want              bool
	}{
		{"a", "1", true},
		{"a (>= 1)", "1", true}, {"a (>= 1)", "0.9", false}, {"a (>= 1)", "1~rc1", false},
		{"a (>> 1)", "1", false}, {"a (>> 1)", "1-1", true},
		{"a (<< 2)", "2~", true}, {"a (<< 2)", "2", false}, {"a (<= 2)", "2", true},
		{"a (= 2)", "0:2", true}, {"a (= 2)", "2.0", false},
	} {
		groups, err := Relations(tt.relation)
		if err != nil {
			t.Fatal(err)
		}
		if got := groups[0][0].Met(tt.version); got != tt.want {
			t.Errorf("%s by %s: found %v", tt.relation, tt.version, got)
		}
	}
}

func TestEach(t *testing.T) {
	var all []Stanza
	err := Each(strings.NewReader("\n\n# comment\nPackage: a\nDepends: b,\n c\nDescription: x\n .\n  "+
		"indented\n\n\nPackage:b\nEmpty:\n"), func(s Stanza) error {
		all = append(all, s)
		return nil
	})
	want := []Stanza{
		{"Package": "a", "Depends": "b,\nc", "Description": "x\n.\n indented"},
		{"Package": "b", "Empty": ""},
	}
	if err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("expected %q, found %q (%v)", want, all, err)
	}
	for text, word := range map[string]string{
		" begins in the middle\n": "line 1",
		"A: b\nno colon\n":        "line 2",
		"A: b\nA: c\n":            "line 2",
		"A b: c\n":                "line 1",
		": c\n":                   "line 1",
	} {
		if err := Each(strings.NewReader(text), func(Stanza) error { return nil }); err == nil ||
			!strings.Contains(err.Error(), word) {
			t.Errorf("%q: expected an error that says %s, found %v", text, word, err)
		}
	}
	stop := errors.New("stop")
	if err := Each(strings.NewReader("A: b\n\nA: c\n"), func(Stanza) error { return stop }); err != stop {
		t.Errorf("expected %v, found %v", stop, err)
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1:2.3-4", "1.0~rc1+b1")
	f.Add("", "-")
	f.Add("9999999999999999999999", "00")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := Compare(a, b), Compare(b, a)
		if (x < 0) != (y > 0) || (x == 0) != (y == 0) {
			t.Errorf("%q, %q: %d, and %d the other way round", a, b, x, y)
		}
		if Compare(a, a) != 0 {
			t.Errorf("%q is not equal to itself", a)
		}
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.38), a | b:any (<< 1)")
	f.Add("a (= 1")
	f.Add("0\v:") // white space inside of a name, and a colon that no architecture follows
	f.Fuzz(func(t *testing.T, value string) {
		groups, err := Relations(value)
		if err != nil {
			return
		}
		// What was understood means the same when written out.
		for _, group := range groups {
			for _, r := range group {
				again, err := Relations(r.String())
				if err != nil || len(again) != 1 || len(again[0]) != 1 || again[0][0] != r {
					t.Errorf("%q: %v was written as %q and read as %v (%v)", value, r, r.String(), again, err)
				}
			}
		}
	})
}

func FuzzEach(f *testing.F) {
	f.Add("Package: a\nDepends: b,\n c\n\nPackage: d\n")
	f.Add("#\n :\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = Each(strings.NewReader(text), func(s Stanza) error {
			if len(s) == 0 {
				t.Error("an empty stanza")
			}
			return nil
		})
	})
}
