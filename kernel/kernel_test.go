package kernel

import (
	"slices"
	"strings"
	"testing"
)

func TestFragmentsAreCleanAndDisjoint(t *testing.T) {
	for _, arch := range Archs {
		sets := map[string][]Fragment{"classic": Fragments(arch)}
		for _, name := range Profiles() {
			sets[name] = Profile(name, arch)
		}
		for name, fragments := range sets {
			t.Run(arch+" "+name, func(t *testing.T) {
				seen := make(map[string]Option)
				for _, f := range fragments {
					options, err := Parse(f)
					if err != nil {
						t.Error(err)
					}
					if len(options) == 0 {
						t.Errorf("%s asks for nothing", f.Name)
					}
					if !strings.HasPrefix(f.Text, "# ") || !strings.HasSuffix(f.Text, "\n") {
						t.Errorf("%s: want a comment first and a newline last: fragments are joined", f.Name)
					}
					for _, o := range options {
						if first, twice := seen[o.Name]; twice {
							t.Errorf("%s: %s is already asked for at %s", o.Where(), o.Name, first.Where())
						}
						seen[o.Name] = o
					}
				}
			})
		}
	}
}

// Every kernel must have what an enclave and nitro-cli cannot do without.
func TestFragmentsAskForTheEssential(t *testing.T) {
	essential := map[string]map[string]string{
		"x86_64": {
			"CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES": "y", "CONFIG_X86_MPPARSE": "y", "CONFIG_PVH": "y",
			"CONFIG_KVM_GUEST": "y", "CONFIG_X86_X2APIC": "y", "CONFIG_ACPI": "y",
		},
		"aarch64": {
			"CONFIG_SERIAL_AMBA_PL011_CONSOLE": "y", "CONFIG_RTC_DRV_PL031": "y", "CONFIG_RTC_HCTOSYS": "y",
			"CONFIG_HW_RANDOM_ARM_SMCCC_TRNG": "y", "CONFIG_ARM64_VA_BITS_48": "y",
		},
	}
	both := map[string]string{
		"CONFIG_NSM": "m", "CONFIG_MODULES": "y", "CONFIG_VIRTIO_VSOCKETS": "y", "CONFIG_VIRTIO_MMIO": "y",
		"CONFIG_CPUSETS_V1": "y", "CONFIG_MEMCG_V1": "y", "CONFIG_EROFS_FS_ZIP": "y",
		"CONFIG_SERIAL_8250_CONSOLE": "y",
		"CONFIG_NR_CPUS":             "128", "CONFIG_PTP_1588_CLOCK_KVM": "y",
	}
	for _, arch := range Archs {
		options, err := Requested(Fragments(arch))
		if err != nil {
			t.Fatal(err)
		}
		have := make(map[string]string)
		for _, o := range options {
			have[o.Name] = o.Value
		}
		for _, want := range []map[string]string{both, essential[arch]} {
			for name, value := range want {
				if have[name] != value {
					t.Errorf("%s: %s is %q in the fragments, want %s", arch, name, have[name], value)
				}
			}
		}
	}
}

func TestOurFragmentsPassTheRulesForUsers(t *testing.T) {
	for _, arch := range Archs {
		if err := Refuse(Fragments(arch)); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		if lines := Warn(Fragments(arch)); lines != nil {
			t.Errorf("%s: %s", arch, strings.Join(lines, "\n"))
		}
	}
}

func TestPatches(t *testing.T) {
	all := Patches()
	if len(all) == 0 {
		t.Fatal("no patches")
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name
		if !strings.HasPrefix(p.Text, "SPDX-License-Identifier: GPL-2.0\n") {
			t.Errorf("%s: want the kernel's licence on the first line", p.Name)
		}
		header, _, found := strings.Cut(p.Text, "\n--- a/")
		if !found {
			t.Errorf("%s: no line begins with \"--- a/\": patch -p1 would do nothing", p.Name)
		}
		if len(header) < 200 {
			t.Errorf("%s: its header does not say why", p.Name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("patches %q are not in the order of their numbers", names)
	}
}

func TestCmdline(t *testing.T) {
	for _, arch := range Archs {
		line := Cmdline(arch)
		if strings.ContainsAny(line, "\n\t\"") || strings.TrimSpace(line) != line || line == "" {
			t.Errorf("%s: %q: want one plain line", arch, line)
		}
		words := strings.Fields(line)
		for _, want := range []string{"panic=30", "console=ttyS0"} {
			if !slices.Contains(words, want) {
				t.Errorf("%s: %q lacks %s", arch, line, want)
			}
		}
		for _, w := range words {
			if strings.HasPrefix(w, "root=") {
				t.Errorf("%s: %s: the root would be ramfs, without a limit, instead of tmpfs", arch, w)
			}
		}
	}
}

func TestUnknownArchitecturePanics(t *testing.T) {
	defer func() {
		if got, _ := recover().(string); !strings.Contains(got, `"arm64"`) || !strings.Contains(got, "aarch64") {
			t.Errorf("panic is %q, want the architecture and those there are", got)
		}
	}()
	Fragments("arm64")
}
