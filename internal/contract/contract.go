// Package contract holds every name and constant that those who pack an enclave share with the init that
// starts it: file names, ports, switches of the kernel command line, the records in the files, and the note
// in init's program. docs/init-contract.md describes this contract; this package is its code.
//
// It does not read images or archives, and starts nothing. It does without fmt and encoding/json, because
// every enclave measures and loads all that init links.
//
// # Encoding
//
// Each file of records is a list of "Key=value", each ended by one NUL byte. Values are any bytes except NUL.
// The first record is "Version=1". An unknown key, a key given twice that may occur once, and a file that
// does not end in NUL are errors, so that an init that is older than the packer ignores nothing. Encoding is
// canonical: one value has one encoding.
package contract

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/netrule"
)

// Paths of the shared files, as init sees them before it changes the root. The first ramdisk of an EIF is the
// bootstrap, the second is the application; the kernel unpacks both into one tree.
const (
	InitPath    = "/init"        // first ramdisk: PID 1, mode 0755
	DevPath     = "/dev"         // first ramdisk: an empty directory, where init mounts devtmpfs
	NSMPath     = "/nsm.ko"      // first ramdisk: the driver of the Nitro Secure Module; optional
	Dir         = "/neb"         // both: a directory, before what it holds
	ModulesPath = "/neb/modules" // first ramdisk: the [Modules], mode 0644; optional
	// LoadOrderPath is nitro-cli's list of modules, one a line: first ramdisk, optional, read without
	// ModulesPath.
	LoadOrderPath = "/modules_load_order"

	ModuleDir    = "/neb/lib"      // first ramdisk: modules that [Modules] names
	RootPath     = "/rootfs"       // second ramdisk: the application's tree; empty for an erofs root
	CmdPath      = "/cmd"          // second ramdisk: nitro-cli's command, one argument a line
	EnvPath      = "/env"          // second ramdisk: nitro-cli's environment, one K=V a line
	Path         = "/neb/app"      // second ramdisk: the [Description], mode 0644
	CompletePath = "/neb/complete" // second ramdisk, the last entry before the trailer: [Complete], mode 0644
)

// rootPart is the name of the parts of an erofs image, without their number.
const rootPart = "/neb/root."

// The parent instance, as an enclave sees it over vsock.
const (
	ParentCID = 3 // the parent's context ID
	// HeartbeatPort is the parent's port to which init connects when the enclave is up. It sends
	// HeartbeatByte and waits until the parent sends it back.
	HeartbeatPort = 9000
	HeartbeatByte = 0xb7
)

// NSMDevice is the device of the Nitro Secure Module.
const NSMDevice = "/dev/nsm"

// Switches of the kernel command line, "key=value", that init reads.
const (
	SwitchPrefix    = "neb."
	SwitchCgroup    = "neb.cgroup"    // v1 or v2 (default)
	SwitchEnd       = "neb.end"       // how the machine ends: reboot (default) or halt
	SwitchGrace     = "neb.grace"     // from StopSignal to SIGKILL for remaining processes; default 10s
	SwitchHeartbeat = "neb.heartbeat" // limit for the parent's answer; default 20s
	SwitchNet       = "neb.net"       // limit for connecting to the network's parent; default 10s
	SwitchLinger    = "neb.linger"    // between the line of a failure and the end of the machine; default 30s
)

// LinePrefix begins each line that init writes to the console.
const LinePrefix = "neb: "

// BecomesPid1 is what init says before it executes an application with [Description.Pid1]. If that works, it
// is init's last line, and the end of the application is a panic of the kernel.
const BecomesPid1 = "note: the application becomes PID 1"

// Complete is the content of [CompletePath]. The kernel sets the size of a file before it writes it, so an
// archive that was truncated inside this last entry leaves a file of zeros.
const Complete = "neb ramdisk complete 1\n"

// CompleteTime is the modification time of [CompletePath], in seconds since 1970: 2017-04-18 16:30 UTC, which
// LinuxKit gives to the files that it adds.
const CompleteTime = 1492533000

// RootPartSize is the size in bytes of every part of an erofs image except the last, which has 1 to
// RootPartSize bytes. It is the largest multiple of a page (4096 bytes) that fits into the 32-bit size of a
// newc entry.
const RootPartSize = 1<<32 - 4096

// RootPart returns the path of part i (from 0) of an erofs image: second ramdisk, mode 0600.
func RootPart(i int) string { return rootPart + strconv.Itoa(i) }

// MaxRecords limits the number of records in a file, "Version" included: short ones take more memory than
// bytes.
const MaxRecords = 16 << 10

// Limits of sizes, in bytes.
const (
	MaxSize  = 2 << 20     // a whole file; the kernel passes at most 2 MiB to a program
	MaxValue = 128<<10 - 1 // one argument or variable (MAX_ARG_STRLEN of linux/binfmts.h, with its NUL)
	MaxName  = 64          // a host name (__NEW_UTS_LEN of linux/utsname.h)
	MaxPath  = 4095        // a path (PATH_MAX of linux/limits.h, with its NUL)
)

// MaxID is the largest number of a user or group. The kernel has larger ones, Docker does not.
const MaxID = 1<<31 - 1

// Description describes how to start the application. The fields of the first group have the names and
// meanings of the OCI image configuration. The zero value of each field of the second is its default.
type Description struct {
	Entrypoint []string // first part of the command
	Cmd        []string // second part of the command
	Env        []string // each "K=V"; init adds PATH, HOME and HOSTNAME if missing
	WorkingDir string   // absolute; "" is /; created if missing
	User       string   // USER or USER:GROUP, names or numbers, see [ID]; "" is user 0, or the user's group
	StopSignal string   // name or number, see [Signal]; "" is SIGTERM

	Hostname     string // "" is "enclave"
	ErofsParts   uint32 // number of parts of the erofs root; 0: the root is the tree at RootPath
	Complete     bool   // init fails unless CompletePath holds Complete
	LoopbackDown bool   // init does not bring up lo
	NSMOwner     string // owner of /dev/nsm, written as User; "" is the application's user and group
	NSMMode      uint32 // permission bits of /dev/nsm; 0 is 0600
	ExitReport   uint32 // vsock port of the parent that gets a Report at the end; 0: none

	Network bool     // init makes a network device, whose frames the parent carries
	Egress  []string // rules of package netrule for what the enclave may reach; none: everything
	Ingress []string // rules for who may reach it; none: everything

	// What the application may do beyond and below Docker's default.
	CapAdd          []string // names of capabilities, or AllCapabilities; see [Description.Capabilities]
	CapDrop         []string
	Allow           []string // AllowUserns, AllowIOUring: off unless named here
	NoNewPrivileges bool     // set-UID programs and file capabilities have no effect

	Pid1    bool   // init executes the application in its own place instead of starting a child
	LogPort uint32 // vsock port of the parent that gets the output, see [LogOut]; 0: none
}

// fields maps keys to the fields of d, in the order of the file.
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
		{key: "Network", flag: &d.Network, word: "tap"},
		{key: "Egress", list: &d.Egress},
		{key: "Ingress", list: &d.Ingress},
		{key: "CapAdd", list: &d.CapAdd, check: checkCapability},
		{key: "CapDrop", list: &d.CapDrop, check: checkCapability},
		{key: "Allow", list: &d.Allow, check: checkAllow},
		{key: "NoNewPrivileges", flag: &d.NoNewPrivileges, word: "yes"},
		{key: "Pid1", flag: &d.Pid1, word: "yes"},
		{key: "LogPort", number: &d.LogPort, limit: 1<<32 - 2},
	}
}

// NeedsApp2 reports whether only an init with [ReadsApp2] can decode d.
func (d *Description) NeedsApp2() bool {
	fields := d.fields()
	first := slices.IndexFunc(fields, func(f field) bool { return f.key == "CapAdd" })
	return slices.ContainsFunc(fields[first:], func(f field) bool { return len(f.values()) > 0 })
}

// Command returns the whole command: Entrypoint and Cmd.
func (d *Description) Command() []string {
	return append(append(make([]string, 0, len(d.Entrypoint)+len(d.Cmd)), d.Entrypoint...), d.Cmd...)
}

// Encode returns the content of [Path]. It fails for a description that init would reject.
func Encode(d Description) ([]byte, error) {
	if err := startable(&d); err != nil {
		return nil, err
	}
	return encode(Path, d.fields(), new(Description).fields())
}

// Decode decodes the content of [Path]. The description's values are substrings of s, not copies.
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
		return errors.New(Path + ": neither Entrypoint nor Cmd is set: there is nothing to start")
	}
	for _, p := range []struct {
		key  string
		port uint32
	}{{"ExitReport", d.ExitReport}, {"LogPort", d.LogPort}} {
		if p.port == HeartbeatPort {
			return errors.New(Path + ": " + p.key + ": port " + strconv.Itoa(HeartbeatPort) +
				" is reserved for the heartbeat")
		}
		if p.port != 0 && d.Pid1 {
			return errors.New(Path + ": " + p.key + " cannot be combined with Pid1: init has ended when " +
				"there is something to send")
		}
	}
	if d.LogPort != 0 && d.LogPort == d.ExitReport {
		return errors.New(Path + ": LogPort and ExitReport are the same port")
	}
	if !d.Network && len(d.Egress)+len(d.Ingress) > 0 {
		return errors.New(Path + ": rules of egress or ingress without Network: set --net")
	}
	if _, err := netrule.Parse(d.Egress, d.Ingress); err != nil {
		return errors.New(Path + ": " + err.Error())
	}
	return nil
}

// Modules are the kernel modules that init loads, in order, before anything else. If [NSMPath] exists and is
// not named, it is loaded first.
type Modules struct {
	Paths []string // absolute, in the first ramdisk; plain, or compressed if the kernel can decompress
	Open  bool     // init does not set kernel.modules_disabled afterwards
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

// DecodeModules decodes the content of [ModulesPath].
func DecodeModules(s string) (Modules, error) {
	var m Modules
	if err := decode(ModulesPath, m.fields(), s); err != nil {
		return Modules{}, err
	}
	return m, nil
}

// Report is what init sends to the parent at the end, if [Description.ExitReport] is set: one connection, one
// encoded report, end of stream.
type Report struct {
	Phase  string // PhaseExit if the application ran; otherwise the step of init that failed
	Status uint32 // exit status 0 to 255; only with PhaseExit and no Signal
	Signal string // the signal that killed the application, as [SignalName] spells it
}

func (r *Report) fields() []field {
	return []field{
		{key: "Phase", text: &r.Phase, check: word},
		{key: "Status", number: &r.Status, limit: 255},
		{key: "Signal", text: &r.Signal, check: signal},
	}
}

// PhaseExit is the [Report.Phase] of an application that exited or was killed.
const PhaseExit = "exit"

// EncodeReport encodes a report.
func EncodeReport(r Report) ([]byte, error) {
	return encode("exit report", r.fields(), new(Report).fields())
}

// DecodeReport decodes a report, which comes from an enclave and is not trusted.
func DecodeReport(s string) (Report, error) {
	var r Report
	if err := decode("exit report", r.fields(), s); err != nil {
		return Report{}, err
	}
	if r.Phase == "" {
		return Report{}, errors.New("exit report: Phase is missing")
	}
	return r, nil
}

// Marks of the lines that init sends to [Description.LogPort]: which stream a line comes from. A line is its
// mark, a space, the text and a newline. Text of more than [MaxLogLine] bytes is sent in pieces, where each
// but the last has a '+' instead of the space.
const (
	LogOut  = "out" // standard output of the application
	LogErr  = "err" // its standard error
	LogInit = "neb" // what init says on the console, and "lost N lines" where there was no room for them
)

// MaxLogLine is the largest number of bytes of text in a line of the log.
const MaxLogLine = 16 << 10

// Belongs reports whether the contract has the given absolute path in the first ramdisk of an EIF, or in a
// later one. A later ramdisk is unpacked over the first, so that a path of the first in it would replace a
// part of the bootstrap.
func Belongs(name string, first bool) bool {
	if first {
		switch name {
		case "/", DevPath, InitPath, NSMPath, Dir, ModulesPath, ModuleDir, LoadOrderPath:
			return true
		}
		return strings.HasPrefix(name, ModuleDir+"/")
	}
	switch name {
	case "/", RootPath, CmdPath, EnvPath, Dir, Path, CompletePath:
		return true
	}
	if part, ok := strings.CutPrefix(name, rootPart); ok {
		n, err := strconv.Atoi(part)
		return err == nil && n >= 0 && strconv.Itoa(n) == part
	}
	return strings.HasPrefix(name, RootPath+"/")
}
