// Package preflight finds, before an enclave starts, why it would not: a production enclave has no console
// that says so. It looks at the application's tree with the eyes of the kernel, the dynamic loader and init,
// and at the kernel and its command line.
//
// It starts nothing and changes nothing. Package pack calls it before it writes a file, package inspect for
// files of any origin.
package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says what a finding means for the enclave.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the enclave does not start, or does not do what it was built for
	Warning Severity = "warning" // it may fail, depending on what cannot be seen here
	Note    Severity = "note"    // worth knowing
)

// Code classifies a [Finding].
type Code string

// Finding is one thing that was found.
type Finding struct {
	Code     Code // for programs; see [Codes]
	Severity Severity
	Text     string // the evidence
	Remedy   string // what to do
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s; %s [%s]", f.Severity, f.Text, f.Remedy, f.Code)
}

// Kind is what all findings of a code have in common.
type Kind struct {
	Code     Code
	Severity Severity
	Meaning  string
	Remedy   string
}

// The codes. Package inspect finds those of the first group, in files.
const (
	Structure   Code = "structure"
	Layout      Code = "layout"
	PCIe        Code = "pcie"
	Checksum    Code = "checksum"
	Kernel      Code = "kernel"
	Cmdline     Code = "cmdline"
	Ramdisk     Code = "ramdisk"
	Metadata    Code = "metadata"
	Signature   Code = "signature"
	ForeignName Code = "foreign-name"

	CommandMissing    Code = "command-missing"
	CommandPermission Code = "command-permission"
	CommandFormat     Code = "command-format"
	CommandArch       Code = "command-arch"
	ScriptCRLF        Code = "script-crlf"
	ScriptInterpreter Code = "script-interpreter"
	LoaderMissing     Code = "loader-missing"
	LibraryMissing    Code = "library-missing"
	UserUnknown       Code = "user-unknown"
	WorkdirFile       Code = "workdir-file"
	EnvMalformed      Code = "env-malformed"
	InitUnusable      Code = "init"
	ModuleMismatch    Code = "module-mismatch"
	KernelFeature     Code = "kernel-feature"
	KernelLinker      Code = "kernel-linker"
	TextOffset        Code = "text-offset"
	RootOption        Code = "root-option"
	KASLR             Code = "kaslr"
	Memory            Code = "memory"
	Unchecked         Code = "unchecked"
)

// Codes has every code, in the order of docs/check.md.
var Codes = []Kind{
	{Structure, Error, "header or sections break a rule of the format", "build the file again"},
	{Layout, Warning, "the layout of the sections is not as the format prescribes", "neb eif repair"},
	{PCIe, Warning, "the image is of a PCIe enclave: its PCR0 and its disk cannot be checked",
		"nothing, if that is intended"},
	{Checksum, Error, "the checksum is wrong: the file is truncated or changed",
		"copy or build the file again"},
	{Kernel, Error, "the kernel is not in a form that boots on Nitro",
		"use a bzImage (x86_64) or an uncompressed Image (aarch64)"},
	{Cmdline, Error, "the command line cannot be read, or is invalid",
		"build the file with another command line"},
	{Ramdisk, Error, "the kernel cannot unpack a ramdisk", "write the ramdisk again"},
	{Metadata, Error, "nitro-cli cannot read the metadata, and ends the enclave", "build the file again"},
	{Signature, Error, "the signature or its certificate is invalid, or not valid now",
		"neb eif sign, with a valid certificate"},
	{ForeignName, Warning, "a later ramdisk replaces a file of the first one, or is unpacked elsewhere",
		"nothing, if that is intended: PCR1 alone identifies nothing then"},
	{CommandMissing, Error, "init finds no file for the command",
		"add the file to the image, or set --entrypoint, --cmd, --workdir or PATH with --env"},
	{CommandPermission, Error, "the application's user may not execute the command",
		"chmod +x in the image, or set another --user"},
	{CommandFormat, Error, "the command is neither a program nor a script that the kernel starts",
		"write #! and an interpreter into its first line, or name a program"},
	{CommandArch, Error, "the command is for another architecture than the enclave",
		"use an image for the enclave's architecture, or set --arch"},
	{ScriptCRLF, Error, "the first line of a script ends in a carriage return",
		"save the script with Unix line endings"},
	{ScriptInterpreter, Error, "the interpreter of a script is missing, or cannot be started",
		"add the interpreter to the image, or write the path of one that it has into the first line"},
	{LoaderMissing, Error, "the dynamic loader of a program is missing",
		"add the C library that the program was linked with, or link it statically"},
	{LibraryMissing, Error, "the dynamic loader does not find a library",
		"add the library to the image, or its directory to LD_LIBRARY_PATH"},
	{UserUnknown, Error, "a user or group has no line in the image's /etc/passwd or /etc/group",
		"add the line to the image, or set --user to a number"},
	{WorkdirFile, Error, "the working directory is not a directory", "set another --workdir"},
	{EnvMalformed, Warning, "a variable of the environment has no name or no =", "write it as NAME=value"},
	{InitUnusable, Error, "the kernel cannot start PID 1",
		"use neb's init, or link yours statically"},
	{ModuleMismatch, Error, "nsm.ko was built for another kernel or architecture",
		"use the driver that was built with the kernel"},
	{KernelFeature, Warning, "a program of the image needs a feature that the kernel lacks",
		"build the kernel with the option: neb build kernel --config-fragment"},
	{KernelLinker, Warning,
		"the kernel was linked with LLD: such kernels were reported not to start on Nitro",
		"link it with GNU ld"},
	{TextOffset, Warning,
		"Nitro's loader places an Image (aarch64) at the address in its header, and nothing runs at 0",
		"write 0x200000 as text_offset, eight bytes little-endian at byte 8; neb build does"},
	{RootOption, Warning, "the command line names a root file system, which enclaves do not have",
		"remove root= from the command line"},
	{KASLR, Note, "the kernel places itself at a random address, which no kernel of Amazon's does",
		"if it does not start on Nitro, try nokaslr on the command line"},
	{Memory, Error, "the enclave needs more memory than it is given",
		"give it more memory, or use an erofs root"},
	{Unchecked, Note, "a part was not checked", "nothing, if that is expected"},
}

// Find returns a finding with the severity and remedy of its code.
func Find(code Code, format string, args ...any) Finding {
	for _, k := range Codes {
		if k.Code == code {
			return Finding{code, k.Severity, fmt.Sprintf(format, args...), k.Remedy}
		}
	}
	panic("preflight: no such code: " + string(code))
}

// only returns one finding.
func only(code Code, format string, args ...any) []Finding {
	return []Finding{Find(code, format, args...)}
}

// Failed is the error for findings that end a build.
type Failed struct{ Findings []Finding }

func (f *Failed) Error() string {
	codes := make([]string, len(f.Findings))
	for i, finding := range f.Findings {
		codes[i] = string(finding.Code)
	}
	slices.Sort(codes)
	return fmt.Sprintf("the enclave would not start: %s; fix the image, or accept with --allow %s",
		f.Findings[0].Text, strings.Join(slices.Compact(codes), " --allow "))
}
