// Package arch is the one table of the architectures that enclaves have, and of the names that other
// programs use for them. It holds names only: what a build or a machine needs to know about an architecture
// stands where it is used.
package arch

import (
	"debug/elf"
	"runtime"
)

// Names of the architectures as EIF tools, the kernel (uname -m) and QEMU write them. They are the values
// of --arch.
const (
	X86_64  = "x86_64"
	AArch64 = "aarch64"
)

// Arch is an architecture under the names of different programs.
type Arch struct {
	Name   string      // "x86_64"; QEMU's program is "qemu-system-" + Name
	Go     string      // GOARCH, also the architecture of container images: "amd64"
	Debian string      // of packages: "amd64"
	Image  string      // file name of a kernel that boots: "bzImage"
	ELF    elf.Machine // of its programs
}

// All lists the architectures. Its order is that of output and help.
var All = []Arch{
	{Name: X86_64, Go: "amd64", Debian: "amd64", Image: "bzImage", ELF: elf.EM_X86_64},
	{Name: AArch64, Go: "arm64", Debian: "arm64", Image: "Image", ELF: elf.EM_AARCH64},
}

// Lookup returns the architecture called name, "x86_64" or "aarch64". For another name it returns false and
// names that are all empty.
func Lookup(name string) (Arch, bool) {
	for _, a := range All {
		if a.Name == name {
			return a, true
		}
	}
	return Arch{}, false
}

// Parse is Lookup for a name that another program wrote: it also takes GOARCH and Debian's names.
func Parse(name string) (Arch, bool) {
	for _, a := range All {
		if name == a.Name || name == a.Go || name == a.Debian {
			return a, true
		}
	}
	return Arch{}, false
}

// Go returns the GOARCH of the architecture called name, or "".
func Go(name string) string {
	a, _ := Lookup(name)
	return a.Go
}

// Image returns the file name of a kernel for the architecture called name, or "".
func Image(name string) string {
	a, _ := Lookup(name)
	return a.Image
}

// Host returns the name of the architecture this program was compiled for, or "" if no enclave has it.
func Host() string {
	for _, a := range All {
		if a.Go == runtime.GOARCH {
			return a.Name
		}
	}
	return ""
}
