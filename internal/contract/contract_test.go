package contract

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var full = Description{
	Entrypoint:   []string{"/bin/server", "", "two\nlines", "=", "\xff\xfe"},
	Cmd:          []string{"-v"},
	Env:          []string{"A=b", "EMPTY=", "KEY=line 1\nline 2", "EQ=a=b"},
	WorkingDir:   "/srv/app",
	User:         "app:staff",
	StopSignal:   "SIGINT",
	Hostname:     "vault-1.example",
	ErofsParts:   2,
	Complete:     true,
	LoopbackDown: true,
	NSMOwner:     "100:101",
	NSMMode:      0o640,
	ExitReport:   9001,
	Network:      true,
	Egress:       []string{"api.example.com:443", "imds"},
	Ingress:      []string{"443/tcp"},

	CapAdd: []string{"NET_ADMIN", "cap_sys_time"}, CapDrop: []string{"ALL"},
	Allow: []string{AllowUserns, AllowIOUring}, NoNewPrivileges: true, LogPort: 5000,
}

// TestGolden fixes the bytes: an init in the field must read what a later packer writes.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		file string
		make func() ([]byte, error)
	}{
		{"full.app", func() ([]byte, error) { return Encode(full) }},
		{"least.app", func() ([]byte, error) { return Encode(Description{Cmd: []string{"/hello"}}) }},
		{"modules", func() ([]byte, error) {
			return EncodeModules(Modules{Paths: []string{"/nsm.ko", "/neb/lib/dummy.ko.zst"}, Open: true})
		}},
		{"report", func() ([]byte, error) { return EncodeReport(Report{Phase: "exit", Signal: "SIGKILL"}) }},
	} {
		got, err := c.make()
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		want, err := os.ReadFile(filepath.Join("testdata", c.file))
		if err != nil {
			t.Fatal(err)
		}
		// The golden files show NUL as a newline and a newline as "\n", to be readable.
		text := strings.NewReplacer("\n", `\n`, "\x00", "\n").Replace(string(got))
		if text != string(want) {
			t.Errorf("%s:\n got %q\nwant %q", c.file, text, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []Description{full, {Cmd: []string{"x"}},
		{Entrypoint: []string{"x"}, NSMMode: 0o7}, {Cmd: []string{"x"}, User: "app:", NSMOwner: ":1000"},
		{Cmd: []string{"x"}, User: ":"}, {Cmd: []string{"x"}, Pid1: true}} {
		b, err := Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(string(b))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	cmd := []string{"x"}
	for name, c := range map[string]struct {
		d    Description
		want string
	}{
		"no command":    {Description{}, "nothing to start"},
		"NUL":           {Description{Cmd: []string{"a\x00b"}}, "NUL"},
		"huge argument": {Description{Cmd: []string{strings.Repeat("a", MaxValue+1)}}, "131071"},
		"too much": {Description{Cmd: cmd, Env: repeat("A="+strings.Repeat("a", 1000), 2100)},
			"limit is 2097152"},
		"too many": {Description{Cmd: repeat("a", MaxRecords)},
			"/neb/app: 16385 records (each argument and variable is one), the limit is 16384"},
		"no =":     {Description{Cmd: cmd, Env: []string{"A"}}, "NAME=value"},
		"no name":  {Description{Cmd: cmd, Env: []string{"=A"}}, "NAME=value"},
		"relative": {Description{Cmd: cmd, WorkingDir: "srv"}, "absolute"},
		"user":     {Description{Cmd: cmd, User: "a:b:c"}, "USER:GROUP"},
		"large user": {Description{Cmd: cmd, User: "2147483648"},
			`User: invalid number "2147483648" of a user or group: expected 0 to 2147483647`},
		"negative group":  {Description{Cmd: cmd, User: "app:-1"}, `User: invalid number "-1"`},
		"nsm owner":       {Description{Cmd: cmd, NSMOwner: "a/b"}, "NSMOwner"},
		"signal":          {Description{Cmd: cmd, StopSignal: "SIGNOT"}, "not a signal"},
		"host name":       {Description{Cmd: cmd, Hostname: "a b"}, "letters, digits"},
		"long host name":  {Description{Cmd: cmd, Hostname: strings.Repeat("a", 65)}, "limit is 64"},
		"mode":            {Description{Cmd: cmd, NSMMode: 0o1000}, "NSMMode"},
		"too many parts":  {Description{Cmd: cmd, ErofsParts: 1025}, "ErofsParts"},
		"VMADDR_PORT_ANY": {Description{Cmd: cmd, ExitReport: 1<<32 - 1}, "ExitReport"},
		"no network":      {Description{Cmd: cmd, Ingress: []string{"443"}}, "without Network: set --net"},
		"a rule": {Description{Cmd: cmd, Network: true, Egress: []string{"a b"}},
			`/neb/app: egress rule "a b": column 2`},
		"capability": {Description{Cmd: cmd, CapAdd: []string{"NET_ADMINS"}}, `CapAdd: "NET_ADMINS" is not a capability`},
		"all":        {Description{Cmd: cmd, CapDrop: []string{"all"}}, `CapDrop: "all" is not`},
		"allow":      {Description{Cmd: cmd, Allow: []string{"kexec"}}, `Allow: "kexec": expected userns or io_uring`},
		"heartbeat":  {Description{Cmd: cmd, LogPort: 9000}, "LogPort: port 9000 is reserved"},
		"one port":   {Description{Cmd: cmd, LogPort: 1, ExitReport: 1}, "the same port"},
		"log of PID 1": {Description{Cmd: cmd, LogPort: 1, Pid1: true},
			"LogPort cannot be combined with Pid1"},
		"report of PID 1": {Description{Cmd: cmd, ExitReport: 1, Pid1: true},
			"ExitReport cannot be combined with Pid1"},
	} {
		if _, err := Encode(c.d); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func repeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func TestDecodeRefuses(t *testing.T) {
	const head = "Version=1\x00Cmd=x\x00"
	for name, c := range map[string]struct{ file, want string }{
		"empty":           {"", "NUL"},
		"cut":             {"Version=1\x00Cmd=/hel", "NUL"},
		"JSON":            {`{"Version":1}` + "\x00", "'='"},
		"no version":      {"Cmd=x\x00", "first record"},
		"later version":   {"Version=2\x00Cmd=x\x00", "version"},
		"version twice":   {head + "Version=1\x00", "unknown field"},
		"unknown field":   {head + "Seccomp=on\x00", `"Seccomp"`},
		"case":            {head + "cmd=x\x00", "unknown field"},
		"no =":            {head + "User\x00", "record 3"},
		"empty record":    {head + "\x00", "record 3"},
		"twice":           {head + "User=a\x00User=b\x00", "twice"},
		"empty value":     {head + "User=\x00", "empty"},
		"other word":      {head + "Complete=yes\x00", "required"},
		"number":          {head + "ExitReport=90x\x00", "number"},
		"leading zero":    {head + "ExitReport=0900\x00", "number"},
		"zero":            {head + "ExitReport=0\x00", "number"},
		"mode in decimal": {head + "NSMMode=384\x00", "number"},
		"network":         {head + "Network=veth\x00", `expected "tap"`},
		"rule":            {head + "Network=tap\x00Egress=:\x00", "egress rule"},
		"no command":      {"Version=1\x00User=a\x00", "nothing to start"},
		"larger than read": {head + strings.Repeat("Cmd=x\x00", MaxSize/6),
			"2097166 bytes, the limit is 2097152"},
		"too many": {head + strings.Repeat("Cmd=\x00", MaxRecords-1), "16385 records"},
	} {
		if _, err := Decode(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestModulesAndReportRefuse(t *testing.T) {
	if _, err := DecodeModules("Version=1\x00Module=nsm.ko\x00"); err == nil {
		t.Error("a relative module was taken")
	}
	if _, err := DecodeModules("Version=1\x00Loading=closed\x00"); err == nil {
		t.Error("an unknown word was taken")
	}
	for _, s := range []string{"Version=1\x00", "Version=1\x00Phase=a b\x00",
		"Version=1\x00Phase=exit\x00Status=256\x00", "Version=1\x00Phase=exit\x00Signal=\x1b[2J\x00"} {
		if r, err := DecodeReport(s); err == nil {
			t.Errorf("%q was taken as %+v", s, r)
		}
	}
}

func TestSignal(t *testing.T) {
	for name, want := range map[string]int{
		"SIGTERM": 15, "TERM": 15, "sigterm": 15, "15": 15, "SIGHUP": 1, "SIGSYS": 31,
		"SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX": 64, "SIGRTMAX-1": 63, "64": 64,
		"": 0, "SIG": 0, "0": 0, "65": 0, "SIGRTMIN-1": 0, "SIGRTMAX+1": 0, "SIGRTMIN3": 0,
		"SIGRTMIN++3": 0, "-1": 0,
	} {
		got, err := Signal(name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("Signal(%q) = %d, %v; want %d", name, got, err, want)
		}
		if want != 0 {
			if back, _ := Signal(SignalName(want)); back != want {
				t.Errorf("SignalName(%d) = %q, which is signal %d", want, SignalName(want), back)
			}
		}
	}
}

func TestBelongs(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second bool
	}{
		{"/init", true, false}, {"/nsm.ko", true, false}, {"/dev", true, false},
		{"/neb/modules", true, false},
		{"/neb/lib", true, false}, {"/neb/lib/a.ko", true, false}, {"/neb", true, true},
		{"/cmd", false, true}, {"/env", false, true}, {"/rootfs", false, true}, {"/rootfs/init", false, true},
		{"/neb/app", false, true}, {"/neb/complete", false, true}, {"/neb/root.0", false, true},
		{"/neb/root.12", false, true},
		{"/neb/root.01", false, false}, {"/neb/root.-1", false, false}, {"/neb/root.", false, false},
		{"/etc", false, false}, {"/rootfs2", false, false},
	} {
		if got := Belongs(c.name, true); got != c.first {
			t.Errorf("Belongs(%q, first) = %v", c.name, got)
		}
		if got := Belongs(c.name, false); got != c.second {
			t.Errorf("Belongs(%q, later) = %v", c.name, got)
		}
	}
	if RootPart(3) != "/neb/root.3" || RootPartSize%4096 != 0 || RootPartSize > 0xFFFFFFFF {
		t.Error("the parts of an erofs root do not fit newc entries")
	}
}

// FuzzDecode: whatever is read as one of the files encodes again to bytes that read as the same.
func FuzzDecode(f *testing.F) {
	b, err := Encode(full)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("Version=1\x00Module=/nsm.ko\x00Loading=open\x00"))
	f.Add([]byte("Version=1\x00Phase=exit\x00Status=3\x00Signal=SIGRTMIN+3\x00"))
	f.Add([]byte("Version=1\x00Cmd=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, Decode, Encode)
		again(t, b, DecodeModules, EncodeModules)
		again(t, b, DecodeReport, EncodeReport)
	})
}

func again[T any](t *testing.T, b []byte, decode func(string) (T, error), encode func(T) ([]byte, error)) {
	v, err := decode(string(b))
	if err != nil {
		return
	}
	e, err := encode(v)
	if err != nil {
		t.Fatalf("%q reads as %+v, which does not encode: %v", b, v, err)
	}
	w, err := decode(string(e))
	if err != nil || !reflect.DeepEqual(v, w) {
		t.Fatalf("%+v came back as %+v (%v)", v, w, err)
	}
}

func TestCapabilitySets(t *testing.T) {
	const docker = 0xa80425fb // as docker run prints in /proc/1/status
	for _, c := range []struct {
		name string
		d    Description
		want uint64
	}{
		{"default", Description{}, docker},
		{"more", Description{CapAdd: []string{"NET_ADMIN", "CAP_SYS_TIME", "cap_bpf"}},
			docker | 1<<12 | 1<<CapSysTime | 1<<39},
		{"fewer", Description{CapDrop: []string{"CHOWN", "cap_mknod"}}, docker &^ (1<<0 | 1<<27)},
		{"none", Description{CapDrop: []string{"ALL"}}, 0},
		{"one", Description{CapDrop: []string{"ALL"}, CapAdd: []string{"NET_BIND_SERVICE"}}, 1 << 10},
		{"all", Description{CapAdd: []string{"ALL"}}, 1<<64 - 1},
		{"all but one", Description{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}},
			(1<<64 - 1) &^ (1 << CapSysAdmin)},
	} {
		if got := c.d.Capabilities(); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
		if got := c.d.NeedsApp2(); got != (c.name != "default") {
			t.Errorf("%s: NeedsApp2 is %v", c.name, got)
		}
	}
	for name, n := range map[string]int{"CHOWN": 0, "SYS_ADMIN": CapSysAdmin, "SYS_TIME": CapSysTime,
		"AUDIT_WRITE": 29, "CHECKPOINT_RESTORE": 40} { // linux/capability.h
		if capability(name) != n {
			t.Errorf("%s is %d, want %d", name, capability(name), n)
		}
	}
}
