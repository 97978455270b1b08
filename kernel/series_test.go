package kernel

import (
	"strings"
	"testing"
)

func TestAdapt(t *testing.T) {
	changedSomewhere := map[string]bool{}
	for _, arch := range Archs {
		original := Fragments(arch)
		for _, series := range []string{DefaultSeries, "6.18"} {
			adapted := Adapt(original, series)
			for i, f := range original {
				if len(adapted) != len(original) || adapted[i] != f {
					t.Fatalf("%s: series %s changes %s", arch, series, f.Name)
				}
			}
		}
		before, err := Requested(original)
		if err != nil {
			t.Fatal(err)
		}
		for _, series := range []string{"7.3", "7.10", "8.0"} {
			adapted := Adapt(original, series)
			if len(adapted) != len(original)+1 || adapted[len(original)].Name != "series-"+series+".config" {
				t.Fatalf("%s: series %s has %d fragments, expected one more than %d", arch, series,
					len(adapted), len(original))
			}
			for i, f := range original {
				if strings.Count(f.Text, "\n") != strings.Count(adapted[i].Text, "\n") {
					t.Errorf("%s: series %s moves lines of %s, which errors name", arch, series, f.Name)
				}
			}
			where := map[string]string{}
			for _, f := range adapted {
				options, err := Parse(f)
				if err != nil {
					t.Error(err)
				}
				for _, o := range options {
					if where[o.Name] != "" {
						t.Errorf("%s: series %s: %s is at %s, too", o.Where(), series, o.Name, where[o.Name])
					}
					where[o.Name] = o.Where()
				}
			}
			for _, o := range before {
				now, other := changed(series, o.Name)
				changedSomewhere[o.Name] = changedSomewhere[o.Name] || other
				kept := !other
				for _, line := range now {
					kept = kept || strings.HasPrefix(line, o.Name+"=")
				}
				if kept != (where[o.Name] != "") {
					t.Errorf("%s: series %s: %s is asked for: %v, expected %v", arch, series, o.Name, !kept,
						kept)
				}
			}
		}
	}
	for _, c := range changes {
		for option := range c.options {
			if !changedSomewhere[option] {
				t.Errorf("no fragment has %s any more: drop it from the changes since %s", option, c.since)
			}
		}
	}
}

// The rules of hardening hold in a later series, by its names.
func TestHardeningOfSeries(t *testing.T) {
	final := func(kernel string) string {
		text := "#\n# Linux/x86 " + kernel + " Kernel Configuration\n#\n"
		for _, f := range Adapt(Fragments("x86_64"), SeriesOf([]byte(text))) {
			text += f.Text
		}
		return text
	}
	for _, test := range []struct{ kernel, series string }{{"6.12.117", "6.12"}, {"7.3.4", "7.3"}} {
		text := final(test.kernel)
		if got := SeriesOf([]byte(text)); got != test.series {
			t.Errorf("%s: found series %s, expected %s", test.kernel, got, test.series)
		}
		if err := CheckHardening("x86_64", []byte(text)); err != nil {
			t.Errorf("%s: %v", test.kernel, err)
		}
	}
	for line, reason := range map[string]string{
		"CONFIG_KMALLOC_PARTITION_RANDOM=y": whyLayout, "CONFIG_HARDENED_USERCOPY_DEFAULT_ON=y": whyBounds,
		"CONFIG_VMAP_STACK=y": whyStack,
	} {
		err := CheckHardening("x86_64", []byte(strings.Replace(final("7.3.4"), line, "", 1)))
		if name, _, _ := strings.Cut(line, "="); err == nil ||
			!strings.Contains(err.Error(), name+" is n, expected y: "+reason) {
			t.Errorf("without %s: found %v", line, err)
		}
	}
}
