package kernel

import (
	"strings"
	"testing"
)

// The table and the fragments are written apart: what one forgets the other has. An option that must be off
// may also be left to allnoconfig.
func TestHardeningHoldsOnTheFragments(t *testing.T) {
	for _, arch := range Archs {
		fragments := Fragments(arch)
		for _, name := range Profiles() {
			fragments = append(fragments, Profile(name, arch)...)
		}
		options, err := Requested(fragments)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(map[string]Option)
		for _, o := range options {
			asked[o.Name] = o
		}
		for _, want := range Hardening(arch) {
			o, found := asked[want.Option]
			switch {
			case !found && want.Value != "n":
				t.Errorf("%s: no fragment asks for %s=%s", arch, want.Option, want.Value)
			case found && o.Value != want.Value:
				t.Errorf("%s: %s: %s=%s, want %s: %s", arch, o.Where(), o.Name, o.Value, want.Value, want.Why)
			}
		}
	}
}

func TestCheckHardening(t *testing.T) {
	for _, arch := range Archs {
		var good strings.Builder
		for _, want := range Hardening(arch) {
			good.WriteString(want.Option + "=" + want.Value + "\n")
		}
		if err := CheckHardening(arch, []byte(good.String())); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		for _, test := range []struct{ name, old, new, want string }{
			{"turned on", "CONFIG_KEXEC=n", "CONFIG_KEXEC=y", "CONFIG_KEXEC is y, expected n: " + whyOther},
			{"turned off", "CONFIG_VMAP_STACK=y", "# CONFIG_VMAP_STACK is not set",
				"CONFIG_VMAP_STACK is n, expected y: " + whyStack},
			{"missing", "CONFIG_FORTIFY_SOURCE=y\n", "", "CONFIG_FORTIFY_SOURCE is n, expected y: " +
				whyBounds},
			{"another value", "=65536", "=0", "CONFIG_DEFAULT_MMAP_MIN_ADDR is 0, expected 65536"},
		} {
			err := CheckHardening(arch, []byte(strings.Replace(good.String(), test.old, test.new, 1)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %s: error %v, want one with %q", arch, test.name, err, test.want)
			}
		}
	}
}
