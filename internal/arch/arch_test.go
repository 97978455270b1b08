package arch

import "testing"

func TestNames(t *testing.T) {
	for _, a := range All {
		for _, name := range []string{a.Name, a.Go, a.Debian} {
			if got, ok := Parse(name); !ok || got != a {
				t.Errorf("Parse(%q) = %v, %v", name, got, ok)
			}
		}
		if _, ok := Lookup(a.Go); ok {
			t.Errorf("Lookup(%q) takes another program's name", a.Go)
		}
	}
	if Go(AArch64) != "arm64" || Image(X86_64) != "bzImage" || Go("riscv64") != "" {
		t.Error("wrong names")
	}
	if host := Host(); Go(host) == "" {
		t.Errorf("Host() = %q", host)
	}
}
