// Package lock is neb.lock: every input of a build that comes from outside the source tree, by version, size
// and SHA-256.
//
// The file is JSON with one package a line, so that a change reads well in a diff and every tool can take the
// hashes from it (Nix: builtins.fromJSON). A lock has one form: [Read] takes only what [Lock.Bytes] would make.
//
// The package reads, checks and writes locks. Making one anew from signed package indexes is in resolve;
// downloading what it names is [github.com/nitro-enclaves-bootstrap/neb/build/store].
package lock

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schema is the version of the form that this package reads and writes.
const Schema = 1

// The archives that a [File] can come from.
const (
	Debian   = "debian"          // Debian's main archive; Path begins with pool/
	Security = "debian-security" // Debian's security archive; Path begins with pool/
	GoProxy  = "go"              // a Go module proxy; Path is what follows the proxy's URL
)

// The sets that a package can belong to. A build asks for the union of those that it needs.
const (
	Base       = "base"        // shell, make, bison, the host's compiler, … all that building either kernel needs but its own compiler
	GCCx86_64  = "gcc-x86_64"  // the compiler for x86_64, native or cross as the host demands
	GCCaarch64 = "gcc-aarch64" // the compiler for aarch64, native or cross as the host demands
	Emulator   = "emulator"    // what configuring and building QEMU needs, and its firmware
	EROFS      = "erofs"       // mkfs.erofs and fsck.erofs
)

// The parts of a lock, each of which can be resolved anew alone.
const (
	PartKernel    = "kernel"    // Lock.Kernel
	PartToolchain = "toolchain" // Lock.Packages and Lock.Go
	PartEmulator  = "emulator"  // Lock.Emulator
)

var (
	// Hosts are the machines that a lock holds a toolchain for, by Debian's names.
	Hosts = []string{"amd64", "arm64"}
	// Sets are all sets, in the order in which a lock names them.
	Sets = []string{Base, GCCx86_64, GCCaarch64, Emulator, EROFS}
	// Parts are all parts, in the order in which a lock names them.
	Parts = []string{PartKernel, PartToolchain, PartEmulator}
)

// File is one download.
type File struct {
	Name     string    // the package: "bash", "linux-source-6.12", "golang.org/toolchain"
	Version  string    // its version, as its archive writes it
	Arch     string    // Debian's name of the architecture it is for: "amd64", "arm64", "all", or "source"
	Archive  string    // [Debian], [Security] or [GoProxy]
	Path     string    // where in the archive, without a leading slash
	Snapshot time.Time // when snapshots of the archive hold it; zero for [GoProxy]
	Size     int64     // bytes
	SHA256   string    // of the content, 64 lower-case hexadecimal digits
}

// Package is a File of the toolchain, and who needs it.
type Package struct {
	File
	Sets  map[string][]string // by host, the sets that it is in, in the order of [Sets]
	Needs []string            // the locked packages that it depends on, sorted; each is in all of its sets
}

// In reports whether the package belongs to the set on the host.
func (p Package) In(host, set string) bool { return slices.Contains(p.Sets[host], set) }

// Go is the Go toolchain, as the modules that Go itself downloads (golang.org/toolchain).
type Go struct {
	Version string          // "1.26.8"
	Hosts   map[string]File // by host, the module's .zip
}

// Index is a package index that a part of the lock was resolved from.
type Index struct {
	Part      string    // [PartKernel], [PartToolchain] or [PartEmulator]
	Archive   string    // [Debian] or [Security]
	Suite     string    // "trixie"
	Component string    // "main"
	Date      time.Time // of the Release file
	SHA256    string    // of the InRelease file, or of Release where its signature is detached
}

// Lock is a whole lock file.
type Lock struct {
	Indexes  []Index // in the order of [Parts], then of archive and suite
	Kernel   File    // linux-source-6.12, a .deb that holds the source as a tarball
	Emulator File    // QEMU's source as a tarball
	Go       Go
	Packages []Package // sorted by name, then by architecture
}

// Files returns the packages that the sets need on the host ("amd64" or "arm64"), sorted by name, each once.
func (l *Lock) Files(host string, sets ...string) ([]File, error) {
	if !slices.Contains(Hosts, host) {
		return nil, fmt.Errorf("neb.lock has no toolchain for host %q, only for %s", host, strings.Join(Hosts, " and "))
	}
	for _, set := range sets {
		if !slices.Contains(Sets, set) {
			return nil, fmt.Errorf("neb.lock has no set %q, only %s", set, strings.Join(Sets, ", "))
		}
	}
	var files []File
	for _, p := range l.Packages {
		if slices.ContainsFunc(sets, func(set string) bool { return p.In(host, set) }) {
			files = append(files, p.File)
		}
	}
	return files, nil
}

// All returns every file that the lock names, each once, for all hosts.
func (l *Lock) All() []File {
	files := []File{l.Kernel, l.Emulator}
	for _, host := range Hosts {
		files = append(files, l.Go.Hosts[host])
	}
	for _, p := range l.Packages {
		files = append(files, p.File)
	}
	return files
}

// Package finds a package by name for a host.
func (l *Lock) Package(host, name string) (Package, bool) {
	for _, p := range l.Packages {
		if p.Name == name && p.Sets[host] != nil {
			return p, true
		}
	}
	return Package{}, false
}
