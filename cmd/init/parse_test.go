//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

func TestOptions(t *testing.T) {
	for line, want := range map[string][]option{
		"":                  nil,
		"  \n":              nil,
		"quiet":             {{key: "quiet", bare: true}},
		"a=b  c\td=\n":      {{key: "a", value: "b"}, {key: "c", bare: true}, {key: "d"}},
		`m.p="x y" n`:       {{key: "m.p", value: "x y"}, {key: "n", bare: true}},
		`"m.p=x y" n`:       {{key: "m.p", value: "x y"}, {key: "n", bare: true}},
		`m.p="x y`:          {{key: "m.p", value: "x y"}},
		"a=b=c":             {{key: "a", value: "b=c"}},
		"a -- neb.end=halt": {{key: "a", bare: true}},
		`a=b"c d"e`:         {{key: "a", value: `b"c d"e`}},
		"reboot=k panic=30 nomodules ": {{key: "reboot", value: "k"}, {key: "panic", value: "30"},
			{key: "nomodules", bare: true}},
	} {
		if got := options(line); !reflect.DeepEqual(got, want) {
			t.Errorf("options(%q) = %+v, want %+v", line, got, want)
		}
	}
}

func TestSwitches(t *testing.T) {
	with := func(f func(*switches)) switches { s := defaults; f(&s); return s }
	for line, c := range map[string]struct {
		want switches
		err  string
	}{
		"": {want: switches{grace: 10 * time.Second, heartbeat: 20 * time.Second,
			linger: 30 * time.Second, net: 10 * time.Second}},
		"console=ttyS0 foo.bar=1": {want: defaults},
		"neb.cgroup=v1":           {want: with(func(s *switches) { s.cgroupV1 = true })},
		"neb.cgroup=v2":           {want: defaults},
		"neb.cgroup=v3": {want: defaults,
			err: "kernel command line neb.cgroup=v3: expected v1 or v2"},
		"neb.end=halt neb.linger=0s neb.grace=1m neb.heartbeat=250ms neb.net=2s": {want: switches{halt: true,
			grace: time.Minute, heartbeat: 250 * time.Millisecond, net: 2 * time.Second}},
		"neb.end=reboot neb.end=halt": {want: with(func(s *switches) { s.halt = true })},
		"neb.grace=10": {want: defaults,
			err: "a time like 10s"},
		"neb.grace=-1s": {want: defaults,
			err: "a time like 10s"},
		"neb.linger=2h": {want: defaults, err: "neb.linger=2h"},
		"neb.end": {want: defaults,
			err: "reboot or halt"},
		"neb.cgorup=v1 neb.linger=1s": {want: with(func(s *switches) { s.linger = time.Second }),
			err: "unknown switch, expected one of neb.cgroup"},
	} {
		s := defaults
		err := s.parse(options(line))
		if s != c.want {
			t.Errorf("%q: got %+v, want %+v", line, s, c.want)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: got error %v, want %q", line, err, c.err)
		}
	}
}

func TestParameters(t *testing.T) {
	all := options(`quiet virtio-mmio.device=1 nsm.a=1 dummy.numdummies=3 my-mod.flag my_mod.text="a b" my_mod.empty= `)
	for module, want := range map[string]string{
		base("/nsm.ko"):                 "a=1",
		base("/neb/lib/dummy.ko.zst"):   "numdummies=3",
		base("/neb/lib/my-mod.ko.xz"):   `flag text="a b" empty=`,
		base("/neb/lib/my_mod.ko"):      `flag text="a b" empty=`,
		base("/neb/lib/virtio_mmio.ko"): "device=1",
		base("/neb/lib/other.ko"):       "",
	} {
		if got := parameters(module, all); got != want {
			t.Errorf("parameters of %s = %q, want %q", module, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=b"}, "/home/app", "enclave")
	if want := []string{"A=b", "PATH=" + contract.DockerPath, "HOME=/home/app",
		"HOSTNAME=enclave"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	own := []string{"PATH=", "HOME=/h", "HOSTNAME=h"}
	if got := environment(own, "/x", "x"); !slices.Equal(got, own) {
		t.Errorf("got %q, want %q", got, own)
	}
}

func TestControllersV1(t *testing.T) {
	got := controllersV1(
		"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\nmemory\t0\t1\t0\npids\t0\t1\t1\n")
	if !slices.Equal(got, []string{"cpuset", "pids"}) {
		t.Errorf("got %q", got)
	}
}

// elfFile is the beginning of an ELF file for a machine, with a loader where one is given.
func elfFile(machine int, loader string) []byte {
	b := make([]byte, 64+2*56, 256)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16] = 2 // ET_EXEC
	b[18], b[19] = byte(machine), byte(machine>>8)
	b[32], b[54], b[56] = 64, 56, 2
	if loader != "" {
		second := b[64+56:]
		second[0] = 3
		second[8] = byte(len(b))
		second[32] = byte(len(loader) + 1)
		b = append(b, loader+"\x00"...)
	}
	return b
}

func TestDiagnose(t *testing.T) {
	have := func(name string) bool { return name == "/bin/sh" || name == "/lib/ld.so" }
	for name, c := range map[string]struct {
		head []byte
		want string
	}{
		"empty":            {nil, "it is empty"},
		"text":             {[]byte("echo hello\n"), "neither an ELF file nor a script"},
		"script":           {[]byte("#!/bin/sh\n"), "the kernel rejects its interpreter /bin/sh"},
		"script, no shell": {[]byte("#! /bin/bash -e\n"), "its interpreter /bin/bash is not in the image"},
		"script, DOS":      {[]byte("#!/bin/sh\r\necho\r\n"), "carriage return"},
		"script, nothing":  {[]byte("#!\n"), "names no interpreter"},
		"no loader": {elfFile(elfMachine, "/lib64/ld-linux-x86-64.so.2"),
			"it is linked dynamically, and its loader /lib64/ld-linux-x86-64.so.2 is not in the image"},
		"with loader":   {elfFile(elfMachine, "/lib/ld.so"), "it may be truncated"},
		"static":        {elfFile(elfMachine, ""), "it may be truncated"},
		"other machine": {elfFile(8, ""), "it was built for another machine"},
		"32 bits":       {elfFile(3, ""), "it was built for 32-bit x86"},
		"cut":           {[]byte("\x7fELF\x02"), "is truncated"},
		"cut later":     {elfFile(elfMachine, "")[:40], "is truncated"},
	} {
		if got := diagnose(c.head, have); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestStart starts what cannot be started, on this machine: the error names the file and the cause.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	put := func(name, content string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	put("plain", "#!/bin/sh\n", 0o644)
	put("interpreter", "#!/nowhere/sh\n", 0o755)
	put("dos", "#!/nowhere/sh\r\n", 0o755)
	put("machine", string(elfFile(0xfeed, "")), 0o755)
	put("loader", string(elfFile(elfMachine, "/nowhere/ld.so")), 0o755)
	put("text", "hello\n", 0o755)
	put("empty", "", 0o755)
	if err := errors.Join(os.Mkdir("bin", 0o755), os.Symlink("nowhere", "link")); err != nil {
		t.Fatal(err)
	}
	const denied, format, missing = "permission denied: ", "exec format error: ",
		"no such file or directory: "
	for command, want := range map[string]string{
		dir + "/none":   missing + "the image has no such file",
		"/tmp/none/any": missing + "the file system that is mounted at /tmp/ hides it",
		"bin/none":      missing + "the path is relative to " + dir,
		"none":          missing + "not found as /nowhere/none, " + dir + "/none",
		"plain":         denied + "it is not executable: chmod +x",
		"./bin":         denied + "it is a directory",
		dir + "/link":   missing + "it is a symbolic link, and its target is not in the image",
		"./interpreter": missing + "it is a script, and its interpreter /nowhere/sh is not in the image",
		"./dos":         missing + "its first line ends in a carriage return",
		"./machine":     format + "it was built for another machine, and this enclave is ",
		"./loader": missing +
			"it is linked dynamically, and its loader /nowhere/ld.so is not in the image",
		"./empty": format + "it is empty",
		"./text":  format + "it is neither an ELF file nor a script with #! in its first line",
	} {
		e := &enclave{about: contract.Description{Cmd: []string{command}},
			env: []string{"PATH=/nowhere:" + dir}}
		if command == "./text" || command == "./empty" || command == "none" || command == "plain" {
			if os.Getuid() != 0 {
				continue // structured mode sets the groups of the application
			}
			e.structured = true
		}
		if strings.HasPrefix(dir, "/tmp/") && command == dir+"/none" {
			want = missing + "the file system that is mounted at /tmp/ hides it"
		}
		pid, err := e.start()
		if err == nil {
			t.Errorf("%s: started as process %d", command, pid)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", command, err, want)
		}
	}
}

// TestUntilFilled is for kernels whose pool is not filled yet. No machine shows that for long here: the NSM
// fills the pool at once.
func TestUntilFilled(t *testing.T) {
	for _, test := range []struct {
		name    string
		answers []error // the last one for ever; nil is a byte
		limit   time.Duration
		want    string
	}{
		{"filled", []error{nil}, 0, ""},
		{"filled soon", []error{unix.EAGAIN, unix.EINTR, unix.EAGAIN, nil}, time.Minute, ""},
		{"never filled", []error{unix.EAGAIN}, 20 * time.Millisecond,
			"wait for random numbers: the kernel's pool was not filled within 20ms"},
		{"no such call", []error{unix.ENOSYS}, time.Minute, "read random numbers: function not implemented"},
	} {
		calls := 0
		err := untilFilled(func() (int, error) {
			answer := test.answers[min(calls, len(test.answers)-1)]
			calls++
			if answer == nil {
				return 1, nil
			}
			return -1, answer
		}, test.limit)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: error %q, want %q", test.name, got, test.want)
		}
		if calls < len(test.answers) {
			t.Errorf("%s: %d calls, want %d or more", test.name, calls, len(test.answers))
		}
	}
}

func TestFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fail("mount", "/dev", unix.ENODEV), "mount /dev: no such device: the kernel lacks CONFIG_DEVTMPFS"},
		{fail("mount", "/tmp", unix.ENODEV), "mount /tmp: no such device: the kernel lacks this file system"},
		{fail("mount", "/tmp", unix.EIO), "mount /tmp: input/output error"},
		{fail("heartbeat", "", unix.ECONNRESET),
			"heartbeat: connection reset by peer: nobody listens on port 9000 of the parent (CID 3)"},
		{fail("exec", "/app", unix.ENOENT).because("x"), "exec /app: no such file or directory: x"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestImports holds what keeps init small: of other modules golang.org/x/sys alone, and of the standard
// library neither of the packages that would put it over its size.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f",
		"{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		path, module, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == "fmt" || path == "encoding/json" || module != "" && module != "golang.org/x/sys" &&
			module != "github.com/nitro-enclaves-bootstrap/neb" {
			t.Errorf("init imports %s", line)
		}
	}
}

func FuzzOptions(f *testing.F) {
	f.Add(`neb.end=halt "a b" m.p="x y" -- z`)
	f.Add("neb.grace=10s neb.linger=99999999h \xa0 =")
	f.Fuzz(func(t *testing.T, line string) {
		all := options(line)
		s := defaults
		if err := s.parse(all); err == nil &&
			(s.grace < 0 || s.grace > time.Hour || s.linger < 0 || s.linger > time.Hour) {
			t.Errorf("%+v", s)
		}
		for _, o := range all {
			name, _, _ := strings.Cut(o.key, ".")
			parameters(name, all)
		}
	})
}

func FuzzDiagnose(f *testing.F) {
	f.Add(elfFile(elfMachine, "/lib/ld.so"))
	f.Add([]byte("#! /bin/sh -e\r\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if diagnose(head, func(string) bool { return false }) == "" {
			t.Error("no cause")
		}
	})
}

func TestOrderedModules(t *testing.T) {
	got := orderedModules("nsm.ko\n# more\n\n  /lib/vsock.ko \r\nlib/a.ko.zst")
	if want := []string{"/nsm.ko", "/lib/vsock.ko", "/lib/a.ko.zst"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMissingHosts(t *testing.T) {
	const own = "127.0.0.1\tvault\n"
	for _, c := range []struct{ have, want string }{
		{"", dockerHosts + own},
		{"# nothing\n", dockerHosts + own},
		{"127.0.0.1 localhost\n", own},
		{"127.0.0.1 localhost", "\n" + own},
		{"127.0.0.1 localhost\n10.0.0.1 db # vault\n", own},
		{"127.0.0.1 localhost Vault\n", ""},
		{"::1 localhost\n127.0.0.1 kms vault", ""},
		{"127.0.0.1 vault\n", dockerHosts},
		{"127.0.0.1 vaults\nvault\n", dockerHosts + own},
	} {
		if got := missingHosts(c.have, "vault"); got != c.want {
			t.Errorf("%q: got %q, want %q", c.have, got, c.want)
		}
	}
	if got := missingHosts("", "localhost"); got != dockerHosts {
		t.Errorf("a host that is called localhost: %q", got)
	}
}

// TestMoveTree moves a tree with links, a long name and many files.
func TestMoveTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	deep := from + strings.Repeat("/"+strings.Repeat("d", 250), 12)
	if err := os.MkdirAll(deep, 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 { // more than one read of the directory returns
		if err := os.WriteFile(from+"/file"+strconv.Itoa(i), []byte(strconv.Itoa(i)), 0o604); err != nil {
			t.Fatal(err)
		}
	}
	when := time.Unix(1e9, 5000)
	for _, err := range []error{
		os.WriteFile(deep+"/end", nil, 0o600), os.Link(deep+"/end", from+"/again"),
		os.Symlink("/nowhere", from+"/link"), os.Chtimes(deep, when, when),
		os.Chmod(from, os.ModeSticky|0o711),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := moveTree(from, to, map[uint64]string{}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(from); err != nil || len(left) > 0 {
		t.Errorf("%d entries are left, %v", len(left), err)
	}
	deep = to + strings.TrimPrefix(deep, from)
	one, err1 := os.Stat(deep + "/end")
	two, err2 := os.Stat(to + "/again")
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(one, two) {
		t.Errorf("two names of a file are two files, %v", err)
	}
	if st, err := os.Stat(deep); err != nil || !st.ModTime().Equal(when) || st.Mode() != os.ModeDir|0o750 {
		t.Errorf("%v, %v; want mode 0750 and the time %v", st, err, when)
	}
	if st, err := os.Stat(to); err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o711 {
		t.Errorf("%v, %v; want the mode 01711", st, err)
	}
	if at, err := os.Readlink(to + "/link"); err != nil || at != "/nowhere" {
		t.Errorf("a link to %s, %v", at, err)
	}
	for i := range 3000 {
		if b, err := os.ReadFile(to + "/file" + strconv.Itoa(i)); err != nil || string(b) != strconv.Itoa(i) {
			t.Fatalf("file %d has %q, %v", i, b, err)
		}
	}
}
