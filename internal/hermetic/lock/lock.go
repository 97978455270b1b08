// Package lock reads, validates and writes neb.lock: the list of all inputs of a build from outside the
// source tree, by version, size and SHA-256. It does not resolve versions (see resolve) and downloads
// nothing (see fetch).
//
// The file is JSON with one package a line, so that a diff is readable and other tools can use the hashes
// (Nix: builtins.fromJSON). A lock has one canonical form: [Read] accepts only what [Lock.Bytes] writes.
package lock

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schema is the version of the format that this package reads and writes.
const Schema = 2

// The archives that a [File] can come from.
const (
	Debian   = "debian"          // Debian's main archive; Path begins with pool/
	Security = "debian-security" // Debian's security archive; Path begins with pool/
	GoProxy  = "go"              // a Go module proxy; Path is what follows the proxy's URL
)

// The sets that a package can belong to. A build uses the union of some of them.
const (
	// shell, make, bison, the host's compiler: all for building a kernel but its compiler
	Base       = "base"
	GCCx86_64  = "gcc-x86_64"  // the compiler for x86_64: native or cross, depending on the host
	GCCaarch64 = "gcc-aarch64" // the compiler for aarch64: native or cross, depending on the host
	Emulator   = "emulator"    // QEMU for both architectures; its packages are in [Lock].Emulator
	EROFS      = "erofs"       // mkfs.erofs and fsck.erofs
	OtherGo    = "other-go"    // another Go, which compiles the locked one from its source
	OtherGCC   = "other-gcc"   // another gcc, for both architectures
)

// Versions of the compilers in [OtherGo] and [OtherGCC], as in the names of their packages. No build uses
// them, only the check that two compilers agree.
const (
	OtherGoVersion  = "1.25"
	OtherGCCVersion = "13"
)

// The parts of a lock. Each can be resolved anew alone.
const (
	PartKernel    = "kernel"    // Lock.Kernel
	PartSeries    = "series"    // Lock.Series
	PartToolchain = "toolchain" // Lock.Packages and Lock.Go
	PartEmulator  = "emulator"  // Lock.Emulator
)

var (
	// Hosts are Debian's names of the machines that a lock holds a toolchain for.
	Hosts = []string{"amd64", "arm64"}
	// Sets lists all sets, in the order in which a lock names them.
	Sets = []string{Base, GCCx86_64, GCCaarch64, Emulator, EROFS, OtherGo, OtherGCC}
	// Parts lists all parts, in the order in which a lock names them.
	Parts = []string{PartKernel, PartSeries, PartToolchain, PartEmulator}
)

// File is a file to download.
type File struct {
	// Name is that of the package: "bash", "linux-source-6.12", "golang.org/toolchain".
	Name string `json:"name"`
	// Version is as the archive writes it.
	Version string `json:"version"`
	// Arch is Debian's name of the architecture: "amd64", "arm64", "all", or "source".
	Arch string `json:"arch"`
	// Archive is [Debian], [Security] or [GoProxy].
	Archive string `json:"archive"`
	// Path is relative to the archive.
	Path string `json:"path"`
	// Snapshot is a time at which the archive of snapshots has the file, in UTC and whole seconds; zero for
	// [GoProxy].
	Snapshot time.Time `json:"snapshot,omitzero"`
	Size     int64     `json:"size"`   // bytes
	SHA256   string    `json:"sha256"` // 64 lower-case hexadecimal digits
}

// Package is a File of the toolchain.
type Package struct {
	File
	// by host, the sets that it is in, in the order of [Sets]
	Sets map[string][]string `json:"sets"`
	// the packages that it depends on, sorted; in all of its sets
	Needs []string `json:"needs,omitempty"`
}

// In reports whether the package belongs to the set on the host.
func (p Package) In(host, set string) bool { return slices.Contains(p.Sets[host], set) }

// Go is the Go toolchain, in the form of the modules that Go itself downloads (golang.org/toolchain).
type Go struct {
	Version string          // "1.26.8"
	Hosts   map[string]File // by host, the module's .zip
}

// Index is a package index that a part of the lock was resolved from.
type Index struct {
	Part      string    `json:"part"`      // one of [Parts]
	Archive   string    `json:"archive"`   // [Debian] or [Security]
	Suite     string    `json:"suite"`     // "trixie"
	Component string    `json:"component"` // "main"
	Date      time.Time `json:"date"`      // of the Release file, in UTC and whole seconds
	SHA256    string    `json:"sha256"`    // of the InRelease file
}

// Lock is the content of a lock file.
type Lock struct {
	Indexes []Index // in the order of [Parts], then of archive and suite
	Kernel  File    // linux-source-6.12, a .deb with the source as a tarball
	Series  []File  // kernel sources of other series, sorted by version
	// sorted as Packages; resolved apart, so that a library can be there in another version
	Emulator []Package
	Go       Go
	Packages []Package // sorted by name, then by architecture
}

// Files returns the packages of some sets for a host ("amd64" or "arm64"), sorted by name, each once.
func (l *Lock) Files(host string, sets ...string) ([]File, error) {
	if !slices.Contains(Hosts, host) {
		return nil, fmt.Errorf("neb.lock: invalid host %q: expected %s", host, strings.Join(Hosts, " or "))
	}
	var files []File
	for _, p := range l.packages() {
		if slices.ContainsFunc(sets, func(set string) bool { return p.In(host, set) }) {
			files = append(files, p.File)
		}
	}
	return files, nil
}

// KernelSource begins the name of each package with a kernel's source; its series follows.
const KernelSource = "linux-source-"

// Source returns the kernel source of a series, such as "7.3"; "" is that of Kernel.
func (l *Lock) Source(series string) (File, error) {
	var held []string
	for _, f := range append([]File{l.Kernel}, l.Series...) {
		if series == "" || f.Name == KernelSource+series {
			return f, nil
		}
		held = append(held, strings.TrimPrefix(f.Name, KernelSource))
	}
	return File{}, fmt.Errorf("neb.lock has no kernel %q: expected one of %s; "+
		"'neb update kernel --series' adds others", series, strings.Join(held, ", "))
}

// All returns all files of the lock, for all hosts, each once.
func (l *Lock) All() []File {
	files := append(l.Default(), l.Series...)
	for _, p := range l.Packages {
		if p.other() {
			files = append(files, p.File)
		}
	}
	return files
}

// Default returns the files that builds of the default kernel need, for all hosts, each once: all but those
// of Series and the packages that only [OtherGo] and [OtherGCC] need.
func (l *Lock) Default() []File {
	files := []File{l.Kernel}
	for _, host := range Hosts {
		files = append(files, l.Go.Hosts[host])
	}
	for _, p := range l.packages() {
		if !p.other() && !slices.Contains(files, p.File) { // the same library can be in both lists
			files = append(files, p.File)
		}
	}
	return files
}

// other reports whether only [OtherGo] and [OtherGCC] need a package.
func (p Package) other() bool {
	for _, sets := range p.Sets {
		if slices.ContainsFunc(sets, func(set string) bool { return set != OtherGo && set != OtherGCC }) {
			return false
		}
	}
	return true
}

// packages returns the packages of all sets.
func (l *Lock) packages() []Package { return slices.Concat(l.Packages, l.Emulator) }
