// Package contract is what stands between whoever packs an enclave and the init that starts it: the names of the files that they
// share and the records inside them. docs/init-contract.md is the text of this contract; this package is its code.
//
// It knows nothing about images, archives or processes. It does without fmt and encoding/json, because everything that init
// links is measured and loaded by every enclave.
//
// # Encoding
//
// Every file of this package is a list of records "Key=value", each ended by one NUL byte, in UTF-8 or any other bytes but NUL.
// The first record is "Version=1". A key that is not known, a key given twice that may stand once, and a file that does not end
// in NUL are errors, so that nothing is dropped silently by an init older than the packer. Encoding is canonical: one value
// has one encoding.
package contract

import (
	"errors"
	"strconv"
	"strings"
)

// Where the shared files stand, seen by init before it changes the root. The first ramdisk of an EIF is the bootstrap (it
// brings /init), the second is the application; the kernel unpacks one over the other.
const (
	Path         = "/neb/app"      // second ramdisk: the [Description], mode 0644
	ModulesPath  = "/neb/modules"  // first ramdisk: the [Modules], mode 0644
	CompletePath = "/neb/complete" // second ramdisk, its last entry before the trailer: [Complete], mode 0644
	RootPath     = "/rootfs"       // second ramdisk: the application's tree, or an empty directory for an erofs root
	CmdPath      = "/cmd"          // second ramdisk: nitro-cli's command, one argument a line
	EnvPath      = "/env"          // second ramdisk: nitro-cli's environment, one K=V a line
	NSMPath      = "/nsm.ko"       // first ramdisk: the driver of the Nitro Secure Module; may be absent
	ModuleDir    = "/neb/lib"      // first ramdisk: modules that [Modules] names
)

// Complete is the whole content of [CompletePath]. The content matters: the kernel sizes a file before it fills it, so an
// archive that was cut inside this last entry leaves a file of zeros behind.
const Complete = "neb ramdisk complete 1\n"

// CompleteTime is the modification time of [CompletePath], in seconds since 1970: 2017-04-18 16:30 UTC, which LinuxKit gives
// to the files that it adds.
const CompleteTime = 1492533000

// RootPartSize is the size in bytes of every part of an erofs image but the last, which is smaller or equal and not empty. It is the
// largest multiple of a page (4096 bytes) that the 32-bit size field of a newc entry can hold.
const RootPartSize = 1<<32 - 4096

// RootPart is the name of part i (from 0) of an erofs image, in the second ramdisk, mode 0600.
func RootPart(i int) string { return "/neb/root." + strconv.Itoa(i) }

// MaxRecords is how many records a file may have, "Version" included. Short ones take more of init's memory than of the file.
const MaxRecords = 16 << 10

// Limits of what init reads, in bytes.
const (
	MaxSize  = 2 << 20     // a whole file; the kernel passes at most 2 MiB of arguments and environment to a program
	MaxValue = 128<<10 - 1 // one argument or variable (MAX_ARG_STRLEN of linux/binfmts.h, with its NUL)
	MaxName  = 64          // a host name (__NEW_UTS_LEN of linux/utsname.h)
	MaxPath  = 4095        // a path (PATH_MAX of linux/limits.h, with its NUL)
)

// MaxID is the largest number of a user or group that [Description.User] and NSMOwner can say: Docker takes no larger one, though the kernel does.
const MaxID = 1<<31 - 1

// HeartbeatPort is the vsock port of the parent (CID 3) to which an enclave's init says that it has come up, and where it waits for the answer.
const HeartbeatPort = 9000

// Description says how to start the application. The upper fields have the names and the meaning that the OCI image configuration gives
// them; the zero value of each lower one is its default.
type Description struct {
	Entrypoint []string // first part of the command
	Cmd        []string // second part of the command
	Env        []string // each "K=V"; init adds PATH, HOME and HOSTNAME where they are missing
	WorkingDir string   // absolute; "" is /; created where the image lacks it
	User       string   // "user", "uid", "user:group", "uid:gid" and mixtures, see [ID]; an empty user is 0, an empty group is the user's
	StopSignal string   // name or number, see [Signal]; "" is SIGTERM

	Hostname     string // "" is "enclave"
	ErofsParts   uint32 // number of parts of the erofs image that is the root; 0: the tree below /rootfs is
	Complete     bool   // init must find [CompletePath] in order, or it refuses the tree
	LoopbackDown bool   // leave lo as the kernel has it (down, no address)
	NSMOwner     string // owner of /dev/nsm, written as User; "" is the application's user and group
	NSMMode      uint32 // permission bits of /dev/nsm; 0 is 0600
	ExitReport   uint32 // vsock port of the parent (CID 3) that gets a [Report] at the end; 0: none
}

// fields ties keys to the fields of d, in the order of the file.
func (d *Description) fields() []field {
	return []field{
		{key: "Entrypoint", list: &d.Entrypoint},
		{key: "Cmd", list: &d.Cmd},
		{key: "Env", list: &d.Env, check: variable},
		{key: "WorkingDir", text: &d.WorkingDir, check: absolute},
		{key: "User", text: &d.User, check: user},
		{key: "StopSignal", text: &d.StopSignal, check: signal},
		{key: "Hostname", text: &d.Hostname, check: hostname},
		{key: "ErofsParts", number: &d.ErofsParts, limit: 1 << 10},
		{key: "Complete", flag: &d.Complete, word: "required"},
		{key: "Loopback", flag: &d.LoopbackDown, word: "down"},
		{key: "NSMOwner", text: &d.NSMOwner, check: user},
		{key: "NSMMode", number: &d.NSMMode, limit: 0o777, octal: true},
		{key: "ExitReport", number: &d.ExitReport, limit: 1<<32 - 2},
	}
}

// Command is the whole command: Entrypoint and Cmd.
func (d *Description) Command() []string {
	return append(append(make([]string, 0, len(d.Entrypoint)+len(d.Cmd)), d.Entrypoint...), d.Cmd...)
}

// Encode returns the content of [Path]. A description that init would refuse is an error here already.
func Encode(d Description) ([]byte, error) {
	if err := startable(&d); err != nil {
		return nil, err
	}
	return encode(Path, d.fields(), new(Description).fields())
}

// Decode reads the content of [Path]. The description's values are parts of s, not copies.
func Decode(s string) (Description, error) {
	var d Description
	if err := decode(Path, d.fields(), s); err != nil {
		return Description{}, err
	}
	if err := startable(&d); err != nil {
		return Description{}, err
	}
	return d, nil
}

func startable(d *Description) error {
	if len(d.Entrypoint)+len(d.Cmd) == 0 {
		return errors.New(Path + ": neither Entrypoint nor Cmd: there is nothing to start")
	}
	if d.ExitReport == HeartbeatPort {
		return errors.New(Path + ": ExitReport: port " + strconv.Itoa(HeartbeatPort) + " of the parent is the heartbeat's")
	}
	return nil
}

// Modules are the kernel modules that init loads, in order, before anything else. [NSMPath] is loaded first when it is there and
// not named.
type Modules struct {
	Paths []string // absolute names in the first ramdisk; plain, or compressed as the kernel was configured to understand
	Open  bool     // leave module loading open afterwards; otherwise init sets kernel.modules_disabled
}

func (m *Modules) fields() []field {
	return []field{
		{key: "Module", list: &m.Paths, check: absolute},
		{key: "Loading", flag: &m.Open, word: "open"},
	}
}

// EncodeModules returns the content of [ModulesPath].
func EncodeModules(m Modules) ([]byte, error) {
	return encode(ModulesPath, m.fields(), new(Modules).fields())
}

// DecodeModules reads the content of [ModulesPath].
func DecodeModules(s string) (Modules, error) {
	var m Modules
	if err := decode(ModulesPath, m.fields(), s); err != nil {
		return Modules{}, err
	}
	return m, nil
}

// Report is what init sends to the parent when all is over, if the description asks for it: one connection, one encoded
// report, end of stream.
type Report struct {
	Phase  string // "exit" when the application ran and ended; otherwise the step that failed, one word of docs/init-contract.md
	Status uint32 // exit status 0 to 255; only with Phase "exit" and no Signal
	Signal string // the signal that killed the application, as [SignalName] spells it
}

func (r *Report) fields() []field {
	return []field{
		{key: "Phase", text: &r.Phase, check: word},
		{key: "Status", number: &r.Status, limit: 255},
		{key: "Signal", text: &r.Signal, check: signal},
	}
}

// EncodeReport returns a report as it is sent.
func EncodeReport(r Report) ([]byte, error) {
	return encode("exit report", r.fields(), new(Report).fields())
}

// DecodeReport reads a report. What it is given comes from inside an enclave: it may be anything.
func DecodeReport(s string) (Report, error) {
	var r Report
	if err := decode("exit report", r.fields(), s); err != nil {
		return Report{}, err
	}
	if r.Phase == "" {
		return Report{}, errors.New("exit report: no Phase")
	}
	return r, nil
}

// Belongs reports whether the contract knows name (absolute, as "/neb/app") in the first ramdisk of an EIF, or in a later one. A
// later ramdisk is unpacked over the first: one that brings a name of the first replaces measured parts of the bootstrap.
func Belongs(name string, first bool) bool {
	if first {
		switch name {
		case "/", "/dev", "/init", NSMPath, "/neb", ModulesPath, ModuleDir:
			return true
		}
		return strings.HasPrefix(name, ModuleDir+"/")
	}
	switch name {
	case "/", RootPath, CmdPath, EnvPath, "/neb", Path, CompletePath:
		return true
	}
	if part, ok := strings.CutPrefix(name, "/neb/root."); ok {
		n, err := strconv.Atoi(part)
		return err == nil && n >= 0 && strconv.Itoa(n) == part
	}
	return strings.HasPrefix(name, RootPath+"/")
}
