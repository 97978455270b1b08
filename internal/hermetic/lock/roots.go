package lock

import "slices"

// Root lists packages that a build uses directly. Their dependencies come with them.
type Root struct {
	Set      string
	Host     string // one of [Hosts], or "" for every host
	Packages []string
	Why      string
}

// Roots lists the packages whose dependencies make up the lock.
//
// The Makefiles and scripts of the kernel call everything of the first group. Other parts of a Debian
// system (dpkg, apt, util-linux) are left out, because packages are unpacked and never installed.
var Roots = []Root{
	{Base, "", []string{"base-files", "base-passwd"}, "directories, links and users of a root"},
	{Base, "", []string{"dash", "bash", "coreutils", "sed", "grep", "gawk", "findutils", "diffutils"},
		"what the scripts of a build call"},
	{Base, "", []string{"tar", "gzip", "xz-utils", "lz4", "zstd", "cpio"},
		"unpacking the source, compressing the kernel, ramdisks"},
	{Base, "", []string{"make", "bc", "flex", "bison", "perl-base", "patch", "kmod"},
		"called by the kernel's Makefiles; its Perl scripts use no module that perl-base lacks"},
	{Base, "", []string{"gcc", "libc6-dev", "libelf-dev", "libssl-dev"},
		"the kernel's tools run on the host: objtool, certs, fixdep"},
	{GCCx86_64, "amd64", []string{"gcc"}, "native"},
	{GCCx86_64, "arm64", []string{"gcc-x86-64-linux-gnu"}, "cross; the kernel brings its own headers"},
	{GCCaarch64, "arm64", []string{"gcc"}, "native"},
	{GCCaarch64, "amd64", []string{"gcc-aarch64-linux-gnu"}, "cross; the kernel brings its own headers"},
	{Emulator, "", []string{"qemu-system-x86", "qemu-system-arm"}, "QEMU for either architecture"},
	{EROFS, "", []string{"erofs-utils"}, "the compressed root"},
	{OtherGo, "", []string{"golang-" + OtherGoVersion + "-go", "coreutils"},
		"Debian compiled it with Go packages of its own; env and uname are called"},
	{OtherGCC, "", []string{"gcc-" + OtherGCCVersion + "-x86-64-linux-gnu", "gcc-" + OtherGCCVersion +
		"-aarch64-linux-gnu"}, "native and cross"},
}

// RootsOf returns the roots of a part of the lock on a host. The emulator's packages are a part, those of all
// other sets are the toolchain.
func RootsOf(part, host string) []Root {
	return slices.DeleteFunc(slices.Clone(Roots), func(r Root) bool {
		return (r.Set == Emulator) != (part == PartEmulator) || r.Host != "" && r.Host != host
	})
}
