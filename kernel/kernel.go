// Package kernel is what neb puts on top of a stock Linux 6.12: its configuration, its patches and its
// command lines, as data, and the few pure functions that guard them.
//
// The configuration is written as fragments by purpose, each option with its reason, on top of allnoconfig:
//
//	make KCONFIG_ALLCONFIG=all.config allnoconfig
//
// where all.config is the fragments one after the other, users' own last: the last value of an option counts.
// [Adapt] translates neb's for a later series. Kconfig silently drops options that it does not know or whose
// dependencies are not set; [Check] finds them.
//
// The package does not build anything: internal/hermetic/component does. It also checks kernel files and
// command lines ([CheckFile], [CheckCmdline]).
package kernel

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

//go:embed fragments/*.config
var fragments embed.FS

//go:embed patches/*.patch
var patches embed.FS

//go:embed cmdline/*
var cmdlines embed.FS

// Archs lists the architectures of the kernels.
var Archs = []string{"x86_64", "aarch64"}

// order is the order in which fragments are joined. A name with %s stands for one fragment per architecture.
var order = []string{
	"base", "memory", "platform", "platform-%s", "vsock", "filesystems", "storage", "network", "containers",
	"crypto", "hardening", "hardening-%s",
}

// profiles are further fragments, in the same form, for enclaves that are not classic ones.
var profiles = map[string][]string{"pcie": {"pcie", "pcie-%s"}}

// Profiles lists the names of profiles.
func Profiles() []string { return slices.Sorted(maps.Keys(profiles)) }

// A Fragment is a part of a kernel configuration, in the syntax of .config.
type Fragment struct {
	Name string // as errors name it: a file name
	Text string
}

// A Patch is a change to the kernel source, as `patch -p1` takes it.
type Patch struct {
	Name string // as errors name it: a file name
	Text string
}

// Fragments returns the configuration of arch, in the order in which it is to be joined.
//
// It panics if arch is not one of [Archs], as do all functions here that take one: callers have checked their
// users' input by then.
func Fragments(arch string) []Fragment {
	mustKnow(arch)
	return readFragments(order, arch)
}

// Profile returns what a profile adds to the configuration of arch, to be joined after [Fragments]. It is
// nothing if there is no such profile.
func Profile(name, arch string) []Fragment {
	mustKnow(arch)
	return readFragments(profiles[name], arch)
}

func readFragments(names []string, arch string) []Fragment {
	var all []Fragment
	for _, name := range names {
		if strings.Contains(name, "%s") {
			name = fmt.Sprintf(name, arch)
		}
		name += ".config"
		all = append(all, Fragment{Name: name, Text: read(fragments, path.Join("fragments", name))})
	}
	return all
}

// Patches returns the patches to the kernel source, in the order in which they are to be applied. They are
// the same for every architecture.
func Patches() []Patch {
	entries, err := fs.ReadDir(patches, "patches") // sorted by name
	if err != nil {
		panic(err)
	}
	var all []Patch
	for _, e := range entries {
		all = append(all, Patch{Name: e.Name(), Text: read(patches, path.Join("patches", e.Name()))})
	}
	return all
}

// Cmdline returns the kernel command line of arch: one line, without a newline at its end.
func Cmdline(arch string) string {
	mustKnow(arch)
	return strings.TrimSpace(read(cmdlines, path.Join("cmdline", arch)))
}

func mustKnow(arch string) {
	for _, known := range Archs {
		if arch == known {
			return
		}
	}
	panic(fmt.Sprintf("kernel: architecture %q: want one of %s", arch, strings.Join(Archs, ", ")))
}

func read(files embed.FS, name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		panic(err) // embedded: a name that is wrong here is wrong for everybody
	}
	return string(text)
}
