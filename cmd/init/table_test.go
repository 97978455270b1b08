//go:build linux && amd64

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// said matches what the probe says of one of its words.
func said(word, answer string) string {
	return "^probe: " + regexp.QuoteMeta(strings.Trim(strconv.Quote(word),
		`"`)) + ": " + regexp.QuoteMeta(answer) + "$"
}

// script is words for the probe, and what it must answer to each, in turn: "" stands for any answer.
type script []string

func (s script) words() (all []string) {
	for i := 0; i < len(s); i += 2 {
		all = append(all, s[i])
	}
	return all
}

func (s script) want(more ...string) (all []string) {
	for i := 0; i < len(s); i += 2 {
		if s[i+1] != "" {
			all = append(all, said(s[i], s[i+1]))
		}
	}
	return append(all, more...)
}

// file is a file of this machine, under another name.
func file(t testing.TB, name, from string) entry {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	return program(name, b)
}

// compile makes a program of testdata/c with musl's compiler.
func compile(t testing.TB, name string, flags ...string) []byte {
	t.Helper()
	cc := require.Command(t, "musl-gcc")
	out := filepath.Join(t.TempDir(), name)
	args := append([]string{"-O2", "-o", out, "testdata/c/" + name + ".c"}, flags...)
	if words, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, words)
	}
	return file(t, name, out).body
}

// withLibraries is a dynamic program of this machine with its loader and libraries, each where it is here.
func withLibraries(t testing.TB, name string) []entry {
	t.Helper()
	all := []entry{file(t, strings.TrimPrefix(name, "/"), name)}
	f, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	loader, err := io.ReadAll(f.Section(".interp").Open())
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimRight(string(loader), "\x00")
	all = append(all, file(t, path[1:], path))
	for _, l := range libraries {
		found := false
		for _, dir := range []string{"/lib/x86_64-linux-gnu/", "/lib64/", "/usr/lib64/", "/usr/lib/"} {
			if _, err := os.Stat(dir + l); err == nil && !found {
				all, found = append(all, file(t, dir[1:]+l, dir+l)), true
			}
		}
		if !found {
			require.Lacks(t, l+" where the test looks for libraries")
		}
	}
	return all
}

// peak is what the probe says of the most memory that PID 1 has had: less than 8 MB.
const peak = `^probe: rss: [1-7]?\d{1,3} kB$`

// with changes a scene.
func with(s scene, change func(*scene)) scene { change(&s); return s }

// slowly marks scenes that only -tags slow runs: others show most of what they show.
func slowly(t *testing.T, table map[string]scene, names ...string) {
	t.Helper()
	for _, name := range names {
		s, ok := table[name]
		if !ok {
			t.Fatalf("no scene is called %q", name)
		}
		s.slow = true
		table[name] = s
	}
}

// pid1 is an application in the place of init, whose end is a panic of the kernel.
func pid1(arch string, t *testing.T) scene {
	words := script{"pid", "1", "id", "1000 7 []", "status=CapBnd", "00000000a80425fb", "zombies", "0",
		"ids", "0 1 1"}
	return scene{arch: arch, panics: true,
		second: described(t, contract.Description{Cmd: append(append([]string{"probe"}, words.words()...),
			"exit=3"),
			Env: []string{"PATH=/nowhere:/"}, User: "1000:7", Pid1: true, Complete: true},
			program("probe", probeProgram(t, arch))),
		want: append([]string{"^neb: " + contract.BecomesPid1 + "$"},
			words.want(`Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300`)...)}
}

// TestShapes boots images of all shapes.
func TestShapes(t *testing.T) {
	large := make([]byte, 3<<20+1)
	rand.NewChaCha8([32]byte{}).Read(large)
	probe := program("probe", probeProgram(t, eif.X86_64))
	run := func(d contract.Description, s script, tree ...entry) scene {
		d.Entrypoint, d.Cmd, d.Complete = []string{"/probe"}, s.words(), true
		return scene{second: described(t, d, append(tree, probe)...), want: s.want(`^neb: exit status=0$`)}
	}
	users := []entry{
		text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/false\n"),
		text("etc/group", "root:x:0:\napp:x:1001:\nstaff:x:50:app\n"),
	}
	nitroCLI := script{
		"env", `["A=b" "PATH=/opt"]`,
		"id", "0 0 []",
		"cwd", "/",
		"lo", "false []",
		"stat=/dev/nsm", "020666 0:0 0",
		"nsm", "true",
		"stat=/etc", "ENOENT",
		"hostname", "(none)",
		"mount=/dev", "dev devtmpfs rw,nosuid,noexec,relatime,mode=755",
		"mount=/proc", "proc proc rw,nosuid,nodev,noexec,relatime",
		"mount=/run", "tmpfs tmpfs rw,nosuid,nodev,noexec,relatime,mode=755",
		"mount=/tmp", "tmpfs tmpfs rw,nosuid,nodev,noexec,relatime",
		"mount=/dev/shm", "shm tmpfs rw,nosuid,nodev,noexec,relatime",
		"mount=/dev/pts", "devpts devpts rw,nosuid,noexec,relatime,mode=600,ptmxmode=000",
		"mount=/sys", "sysfs sysfs rw,nosuid,nodev,noexec,relatime",
		"mount=/sys/fs/cgroup", "cgroup2 cgroup2 rw,nosuid,nodev,noexec,relatime",
		"mount=/dev/mqueue", "nothing",
		"stat=/tmp", "",
		"link=/dev/fd", "/proc/self/fd",
		"link=/dev/stdin", "/proc/self/fd/0",
		"link=/dev/stdout", "/proc/self/fd/1",
		"link=/dev/stderr", "/proc/self/fd/2",
		"link=/proc/self/fd/0", "/dev/console",
		"read=/proc/sys/kernel/modules_disabled", `"0"`,
		"addlo", "added",
	}
	second := script{
		"id", "1000 1001 [50]",
		"stat=/dev/nsm", "020600 1000:1001 0",
		"within=1000,nsm", "true",
		"within=1000,extend=16", "true",
		"within=1001,nsm", "EACCES",
		"within=1001,extend=16", "EACCES",
		"within=1001,read=/proc/self/comm", "",
	}
	const controllers = `"cpuset cpu io memory hugetlb pids rdma misc"`
	structured := script{
		"env", `["A=b" "WORDS=two\nlines" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "HOME=/home/app" "HOSTNAME=vault"]`,
		"id", "1000 1001 [50]",
		"cwd", "/srv/a/b",
		"stat=/srv/a", "040755 0:0 60",
		"lo", "true [127.0.0.1/8 ::1/128]",
		"hostname", "vault",
		"read=/etc/hosts", strconv.Quote(dockerHosts + "127.0.0.1\tvault"),
		"stat=/run/resolvconf/resolv.conf", "100644 0:0 0",
		"stat=/dev/nsm", "020600 1000:1001 0",
		"nsm", "true",
		"write=/dev/stdout", "ok",
		"write=/dev/stderr", "ok",
		"write=/tmp/new", "ok",
		"link=/proc/self/fd/0", "/dev/null",
		"mount=/dev/mqueue", "mqueue mqueue rw,nosuid,nodev,noexec,relatime",
		"read=/sys/fs/cgroup/cgroup.controllers", controllers,
		"read=/sys/fs/cgroup/cgroup.subtree_control", controllers,
		"mount=/dev/pts", "devpts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
		"pty", "/dev/pts/0",
		"read=/sys/class/misc/hw_random/rng_current", `"nsm-hwrng"`,
		"read=/proc/sys/kernel/modules_disabled", `"1"`,
		"addlo", "EPERM",
		"bytes=/neb/app", "ENOENT",
		"say=\x01\xff\n", `"\x01\xff\n"`,
	}
	table := map[string]scene{
		"nitro-cli": {
			second: plain(strings.Join(append([]string{"/probe"}, nitroCLI.words()...), "\n")+"\n",
				"A=b\nPATH=/opt", probe),
			want: nitroCLI.want(`^neb: exit status=0$`),
		},
		"nitro-cli, command in its own PATH, v1 cgroups": {
			second: plain("probe\nmount=/sys/fs/cgroup\nmount=/sys/fs/cgroup/pids\n"+
				"mount=/sys/fs/cgroup/cpuset\nmount=/sys/fs/cgroup/memory\nexit=7", "PATH=/opt/bin\n",
				program("opt/bin/probe", probe.body)),
			cmdline: "neb.cgroup=v1",
			want: []string{
				said("mount=/sys/fs/cgroup", "cgroup_root tmpfs rw,nosuid,nodev,noexec,relatime,mode=755"),
				said("mount=/sys/fs/cgroup/pids", "pids cgroup rw,nosuid,nodev,noexec,relatime,pids"),
				said("mount=/sys/fs/cgroup/cpuset", "cpuset cgroup rw,nosuid,nodev,noexec,relatime,cpuset"),
				said("mount=/sys/fs/cgroup/memory", "memory cgroup rw,nosuid,nodev,noexec,relatime,memory"),
				`^neb: exit status=7$`,
			},
			never: []string{"warning"},
		},
		"structured, with a list of modules": with(run(contract.Description{
			Env: []string{"A=b", "WORDS=two\nlines"}, User: "app", WorkingDir: "/srv/a/b", Hostname: "vault",
		}, structured, append(users, link("etc/resolv.conf", "/run/resolvconf/resolv.conf"))...),
			func(s *scene) {
				s.first, s.cmdline = []entry{modules(t, contract.Modules{Paths: []string{"/nsm.ko"}})},
					`nsm.neb_test="a b"`
				s.want = append([]string{`nsm: unknown parameter 'neb_test' ignored`}, s.want...)
			}),
		"no /etc, user and group by number, loopback down, as root within": run(contract.Description{
			User: "0:7", LoopbackDown: true, NSMOwner: "77:78", NSMMode: 0o640, Env: []string{"HOME=/h"},
			CapAdd: []string{"NET_ADMIN"},
		}, script{
			"env", `["HOME=/h" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "HOSTNAME=enclave"]`,
			"id", "0 7 []",
			"cwd", "/",
			"lo", "false []",
			"addlo", "added",
			"stat=/dev/nsm", "020640 77:78 0",
			"as=77,nsm", "true",
			"as=78,nsm", "EACCES", // a group member may read, and the module wants writing
			"as=79,nsm", "EACCES",
			"stat=/etc/hosts", "100644 0:0 166",
			"zombies", "0",
		}),
		// Set-UID root, so that it can become others: PID 1 starts it as app.
		"a second user cannot attest": {
			second: described(t, contract.Description{Entrypoint: []string{"/su"}, Cmd: second.words(),
				User: "app", Complete: true},
				append(users, entry{name: "su", mode: 0o4755, body: probe.body})...),
			want: second.want(`^neb: exit status=0$`),
		},
		"read-only directories": run(contract.Description{User: "1000", WorkingDir: "/ro/sub"}, script{
			"cwd", "/ro/sub",
			"write=/ro/new", "EACCES",
			"read=/ro/file", `"content"`,
			"as=1000,id", "EPERM",
		}, entry{name: "ro", mode: initramfs.TypeDir | 0o555},
			entry{name: "ro/sub", mode: initramfs.TypeDir | 0o555}, text("ro/file", "content")),
		"relative to WORKDIR, without nsm.ko": {
			without: []string{"nsm.ko"},
			second: described(t, contract.Description{Entrypoint: []string{"./probe"},
				Cmd: []string{"name", "stat=/dev/nsm", "exit=255"}, WorkingDir: "/opt"},
				program("opt/probe", probe.body)),
			want: []string{said("name", `"./probe"`), said("stat=/dev/nsm", "ENOENT"),
				`^neb: exit status=255$`},
		},
		"run and tmp keep what the image has there": run(contract.Description{User: "1000:1000"}, script{
			"stat=/run", "040711 1000:7 80",
			"stat=/run/postgresql", "043777 1000:1001 60",
			"read=/run/postgresql/a/conf", `"content"`,
			"stat=/run/postgresql/a/conf", "100640 1000:0 7",
			"link=/run/link", "postgresql/a",
			"stat=/tmp", "041770 0:1000 100",
			"sum=/tmp/large", fmt.Sprintf("%x", sha256.Sum256(large)),
			"stat=/tmp/fifo", "010600 5:6 0",
			"stat=/tmp/s", "104755 0:0 1",
		}, entry{name: "run", mode: initramfs.TypeDir | 0o711, uid: 1000, gid: 7},
			entry{name: "run/postgresql", mode: initramfs.TypeDir | 0o3777, uid: 1000, gid: 1001},
			dir("run/postgresql/a"),
			entry{name: "run/postgresql/a/conf", mode: 0o640, uid: 1000, body: []byte("content")},
			link("run/link", "postgresql/a"), entry{name: "tmp", mode: initramfs.TypeDir | 0o1770, gid: 1000},
			text("tmp/large", string(large)), entry{name: "tmp/fifo", mode: unix.S_IFIFO | 0o600, uid: 5,
				gid: 6},
			entry{name: "tmp/s", mode: initramfs.TypeFile | 0o4755, body: []byte("x")}),
		"the application is PID 1": pid1(eif.X86_64, t),
		"killed": {
			second: described(t, contract.Description{Cmd: []string{"probe", "die=SIGKILL"},
				Env: []string{"PATH=/nowhere:/"}, Complete: true}, probe),
			raw:  compressions["gzip"],
			want: []string{`^neb: exit signal=SIGKILL$`},
		},
		"forks and exits, what is left is told": {
			second: described(t, contract.Description{Cmd: []string{"/probe", "leave=tame", "exit=0"},
				StopSignal: "SIGINT"}, probe),
			want: []string{`^probe: left behind, tame`, `^probe: tame process got SIGINT$`,
				`^neb: exit status=0$`},
		},
		"ignores SIGTERM, is killed; the machine halts": {
			late: "neb.end=halt", // not measured: the machine appends that an enclave ends by a reboot
			runs: true,
			second: described(t, contract.Description{Cmd: []string{"/probe", "leave=stubborn", "exit=4"}},
				probe),
			cmdline: "neb.grace=400ms",
			want: []string{`^probe: left behind, stubborn`, `^probe: stubborn process got SIGTERM$`,
				`^neb: exit status=4$`, `reboot: System halted`},
		},
		"signals to PID 1 reach the application": run(contract.Description{}, script{
			"kill1=SIGTERM", "SIGTERM", "kill1=SIGINT", "SIGINT", "kill1=SIGHUP", "SIGHUP", "kill1=SIGUSR1",
			"SIGUSR1",
			"kill1=SIGKILL", "none", "kill1=SIGSEGV", "none", "kill1=SIGABRT", "none",
		}),
		"ignores SIGTERM itself, and goes on; its child gets it": {
			second: described(t, contract.Description{Cmd: []string{"/probe", "leave=tame",
				"outlive=SIGTERM", "exit=5"}}, probe),
			want: []string{`^probe: left behind, tame`, `^probe: tame process got SIGTERM$`,
				said("outlive=SIGTERM", "a child"), `^neb: exit status=5$`},
		},
		"10,000 orphans": {
			second: described(t, contract.Description{Cmd: []string{"/orphans", "10000", "/probe",
				"zombies", "rss"}}, probe, program("orphans", compile(t, "orphans", "-static"))),
			want: []string{`^orphans: 10000$`, said("zombies", "0"), peak, `^neb: exit status=0$`},
		},
		"busybox": {
			second: described(t, contract.Description{Entrypoint: []string{"sh", "-c"},
				Cmd:        []string{`echo "I am $(id -u) in $PWD with $(ulimit -n) of $(ulimit -Hn)"; exit 12`},
				WorkingDir: "/root"}, file(t, "bin/sh", require.Command(t, "busybox"))),
			raw:  compressions["lz4"],
			want: []string{`^I am 0 in /root with 1048576 of 1048576$`, `^neb: exit status=12$`},
		},
		"dynamic, glibc": {
			second: described(t, contract.Description{Cmd: []string{"env"}, Env: []string{"A=glibc"}},
				withLibraries(t, "/usr/bin/env")...),
			raw:  compressions["zstd"],
			want: []string{`^A=glibc$`, `^neb: exit status=0$`},
		},
		"dynamic, musl": {
			second: described(t, contract.Description{Cmd: []string{"/hello"}},
				program("hello", compile(t, "hello")),
				file(t, "lib/ld-musl-x86_64.so.1", "/lib/ld-musl-x86_64.so.1")),
			want: []string{`^hello from a dynamic program$`, `^neb: exit status=0$`},
		},
		"a script without #!, as glibc's execvpe runs it": {
			second: plain("start\none\n", "", file(t, "bin/sh", require.Command(t, "busybox")),
				program("bin/start", []byte("echo $0 $1, PATH is $PATH, $(ulimit -n) of $(ulimit -Hn); "+
					"exit 6\n"))),
			want: []string{`^/bin/start one, PATH is /sbin:/usr/sbin:/bin:/usr/bin, 1024 of 4096$`,
				`^neb: exit status=6$`},
		},
		"a compressed module, loading left open": {
			raw: compressions["xz"],
			first: []entry{modules(t,
				contract.Modules{Paths: []string{"/neb/lib/nsm.ko.zst"}, Open: true}),
				program("neb/lib/nsm.ko.zst",
					images.Zstd.Pack(t, file(t, "", filepath.Join(vm.Blobs(t, eif.X86_64), "nsm.ko")).body))},
			without: []string{"nsm.ko"},
			second: described(t, contract.Description{Cmd: []string{"/probe", "stat=/dev/nsm",
				"read=/proc/sys/kernel/modules_disabled"}}, probe),
			want: []string{said("stat=/dev/nsm", "020600 0:0 0"),
				said("read=/proc/sys/kernel/modules_disabled", `"0"`), `^neb: exit status=0$`},
		},
		"a large environment": {
			second: plain("/probe\nbytes=/proc/self/environ\nrss",
				strings.Repeat("V="+strings.Repeat("x", 1000)+"\n", 1400), probe),
			want: []string{said("bytes=/proc/self/environ", strconv.Itoa(1400*1003)), peak,
				`^neb: exit status=0$`},
		},
	}
	// The most that a description may hold, in as many records as it may have, which is what takes the most
	// memory.
	most := []string{"/probe", "rss", "exit=0"}
	for len(most) < contract.MaxRecords/2 {
		most = append(most, strings.Repeat("x", 100))
	}
	most = append(most, strings.Repeat("y", contract.MaxValue))
	variables := make([]string, contract.MaxRecords-2-len(most))
	for i := range variables {
		variables[i] = "V" + strconv.Itoa(i) + "=" + strings.Repeat("z", 90)
	}
	table["a large description"] = scene{
		second: described(t, contract.Description{Entrypoint: most[:1], Cmd: most[1:], Env: variables,
			Complete: true}, probe),
		want: []string{peak, `^neb: exit status=0$`},
	}
	slowly(t, table, "10,000 orphans", "a large environment", "dynamic, musl",
		"ignores SIGTERM itself, and goes on; its child gets it")
	all(t, table)
}

// compressions are those of ramdisks that kernel/fragments/platform.config asks for.
var compressions = map[string]func(testing.TB, []byte) []byte{
	"gzip": images.Gzip.Pack,
	"zstd": images.Zstd.Pack,
	"xz": func(t testing.TB, b []byte) []byte {
		t.Helper()
		var out bytes.Buffer
		w, err := xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&out) // the kernel knows no other checksum
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	},
	// The legacy frame, the only one that the kernel knows: blocks of up to 8 MiB, here of literals alone.
	"lz4": func(_ testing.TB, b []byte) []byte {
		out := []byte{0x02, 0x21, 0x4c, 0x18}
		for part := range slices.Chunk(b, 8<<20) {
			block := []byte{0xf0}
			n := len(part) - 15
			for ; n >= 255; n -= 255 {
				block = append(block, 255)
			}
			block = append(append(block, byte(n)), part...)
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(block))), block...)
		}
		return out
	},
}

func modules(t testing.TB, m contract.Modules) entry {
	t.Helper()
	b, err := contract.EncodeModules(m)
	if err != nil {
		t.Fatal(err)
	}
	return entry{name: "neb/modules", mode: 0o644, body: b}
}

// all runs a table, one machine after the other: two at once take as long on the two processors that a test
// machine may have.
func all(t *testing.T, table map[string]scene) {
	for name, s := range table {
		if s.slow && !slow {
			continue
		}
		t.Run(name, func(t *testing.T) { s.run(t) })
	}
}

// TestFaults boots what is broken. Each must end in one line that says what, and in a reboot.
func TestFaults(t *testing.T) {
	probe := program("probe", probeProgram(t, eif.X86_64))
	nsm, err := os.ReadFile(filepath.Join(vm.Blobs(t, eif.X86_64), "nsm.ko"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(d contract.Description, want string, tree ...entry) scene {
		if len(d.Cmd) == 0 {
			d.Cmd = []string{"/probe", "say=started"}
		}
		d.Complete = true
		return scene{second: described(t, d, append(tree, probe)...), want: []string{want},
			never: []string{"^probe"}}
	}
	good := run(contract.Description{}, "")
	table := map[string]scene{
		"no /cmd": {beats: true, second: plain("", "")[:7],
			want: []string{`^neb: read /cmd: no such file or directory: the application's ramdisk does not have it, or was not unpacked$`}},
		"empty /cmd": {beats: true, second: plain("", "A=b\n"),
			want: []string{`^neb: read /cmd: the file is empty: the image has neither CMD nor ENTRYPOINT$`}},
		"no /rootfs": {beats: true, second: []entry{text("cmd", "/probe\n"), text("env", "")},
			want: []string{`^neb: mount /rootfs: no such file or directory: the application's ramdisk does not have it, or was not unpacked$`}},
		"2 MB of environment": {second: plain("/probe\n",
			strings.Repeat("V="+strings.Repeat("x", 1000)+"\n", 2100), probe),
			want: []string{`^neb: exec /probe: argument list too long: the limit is 2 MiB for arguments and environment, and 128 KiB for each$`}},
		"corrupt nsm.ko": with(good, func(s *scene) {
			s.first = []entry{program("nsm.ko",
				append([]byte("\x7fELF"), bytes.Repeat([]byte("?"), 5000)...))}
			s.want = []string{`^neb: load module /nsm.ko: exec format error: the file is damaged`}
		}),
		"nsm.ko of another kernel": with(good, func(s *scene) {
			s.first = []entry{program("nsm.ko",
				bytes.Replace(nsm, []byte("vermagic=6.12"), []byte("vermagic=6.11"), 1))}
			s.want = []string{`^neb: load module /nsm.ko: exec format error: it was built for kernel 6\.11\.\d+.*, the running kernel is 6\.12\.`}
		}),
		"a module that is missing": with(good, func(s *scene) {
			s.first, s.cmdline = []entry{modules(t,
				contract.Modules{Paths: []string{"/nsm.ko", "/neb/lib/tun.ko"}})}, "nsm.neb_test=1"
			s.want = []string{`nsm: unknown parameter 'neb_test' ignored`,
				`^neb: open module /neb/lib/tun.ko: no such file or directory`}
		}),
		"nitro-cli's list of modules": with(good, func(s *scene) {
			s.first, s.cmdline = []entry{text("modules_load_order", "# first\nnsm.ko\n\nlib/none.ko\n")},
				"nsm.neb_test=1"
			s.want = []string{`nsm: unknown parameter 'neb_test' ignored`, `^neb: open module /lib/none.ko: no such file`}
		}),
		"/neb/modules is unknown": with(good, func(s *scene) {
			s.first = []entry{text("neb/modules", "/nsm.ko\n")}
			s.want = []string{`^neb: read /neb/modules: it does not end in a NUL byte`}
		}),
		"no vsock device is final after the modules": with(good, func(s *scene) {
			s.qemu, s.cmdline = []string{"-machine", "auto-kernel-cmdline=off"}, "nsm.neb_test=1"
			s.want = []string{`nsm: unknown parameter 'neb_test' ignored`,
				`^neb: heartbeat: no such device: there is no vsock device`}
		}),
		"bad switch": with(good, func(s *scene) {
			s.cmdline = "neb.grace=ten"
			s.want = []string{`^neb: kernel command line neb.grace=ten: expected a time like 10s`}
		}),
		"no such command": run(contract.Description{Cmd: []string{"/bin/server"}},
			`^neb: exec /bin/server: no such file or directory: the image has no such file$`),
		"no script, and no shell": {second: plain("/start\n", "", program("start", []byte("echo hello\n"))),
			want: []string{`^neb: exec /start: exec format error: it is neither an ELF file nor a script with #! in its first line, and /bin/sh, which would run it, is not in the image$`}},
		"unknown user": run(contract.Description{User: "app"},
			`^neb: find User "app": no such user in the image's /etc/passwd; a number needs no entry$`),
		"WORKDIR is a file": run(contract.Description{WorkingDir: "/probe/x"},
			`^neb: create /probe/x: not a directory$`),
		"/tmp is a file": run(contract.Description{},
			`^neb: mount /tmp: not a directory: the image has a file in place of this directory$`,
			text("tmp", "")),
		"/dev leads out": run(contract.Description{},
			`^neb: mount /dev: not a directory: the image has a file in place of this directory$`,
			link("dev", "/neb")),
		"unknown field": {second: []entry{text("neb/app",
			"Version=1\x00Cmd=/probe\x00Seccomp=on\x00"), dir("rootfs")},
			want: []string{`^neb: read /neb/app: unknown field "Seccomp": use the init that came with the packer$`}},
		"not whole": {second: good.second[:len(good.second)-1],
			want: []string{`^neb: check that the ramdisk is complete: /neb/complete: no such file or directory: the ramdisk was truncated`}},
		"cut": with(good, func(s *scene) {
			s.raw = func(_ testing.TB, b []byte) []byte { return b[:len(b)*2/3&^3] }
			s.want = []string{`/neb/complete: no such file or directory: the ramdisk was truncated`}
		}),
		"cut in the last entry": with(good, func(s *scene) {
			s.raw = func(_ testing.TB,
				b []byte) []byte {
				return b[:bytes.Index(b, []byte(contract.Complete))&^3]
			}
			s.want = []string{`/neb/complete: unexpected content`}
		}),
		"damaged": with(good, func(s *scene) {
			s.raw = func(_ testing.TB,
				b []byte) []byte {
				b[bytes.Index(b, []byte("rootfs/probe"))-110] = '?'
				return b
			}
			s.want = []string{`/neb/complete: no such file or directory: the kernel reported: Initramfs unpacking failed: `}
		}),
		"too little memory": with(run(contract.Description{},
			`/neb/complete: no such file or directory: the kernel reported: Initramfs unpacking failed: write error$`, text("large", string(make([]byte, 70<<20)))), func(s *scene) { s.memory = 128 << 20 }),
		"no inode for proc, the switches apply": with(run(contract.Description{},
			`^neb: create /proc: no space left on device: out of memory`, many(20000)...), func(s *scene) {
			s.memory, s.late, s.runs = 100<<20, "neb.end=halt", true
			s.want = append(s.want, `reboot: System halted`)
		}),
		"PID 1 that cannot start": run(contract.Description{Cmd: []string{"/none"}, Pid1: true, User: "1000"},
			`^neb: exec /none: no such file or directory: the image has no such file$`),
		"too few inodes": with(run(contract.Description{},
			`/neb/complete: no such file or directory: the ramdisk was truncated, or memory or inodes ran out`, many(20000)...), func(s *scene) { s.memory, s.first = 100<<20, []entry{dir("proc")} }),
		"unknown compression": {second: good.second,
			raw:  func(testing.TB, []byte) []byte { return []byte("BZh91AY&SY0000000000") },
			want: []string{`^neb: read /cmd: no such file or directory: the kernel reported: Initramfs unpacking failed: compression method bzip2 not configured$`}},
		"the program is not erofs": with(run(contract.Description{ErofsParts: 1},
			`^neb: mount /neb/lower: invalid argument: the file is not an erofs image`), func(s *scene) {
			s.second = append(s.second, text("neb/root.0", strings.Repeat("x", 8192)))
			last(s.second)
		}),
		"a part of erofs is absent": run(contract.Description{ErofsParts: 1},
			`^neb: open /neb/root.0: no such file or directory`),
	}
	slowly(t, table, "/neb/modules is unknown", "2 MB of environment", "empty /cmd", "unknown user",
		"/tmp is a file",
		"unknown field", "not whole", "too few inodes", "unknown compression", "a part of erofs is absent",
		"no inode for proc, the switches apply")
	all(t, table)
}

// last moves the entry that says that all is there back to the end.
func last(all []entry) {
	n := len(all)
	all[n-1], all[n-2] = all[n-2], all[n-1]
}

func many(n int) []entry {
	all := make([]entry, n)
	for i := range all {
		all[i] = text("f"+strconv.Itoa(i), "")
	}
	return all
}

// TestParents boots beside parents that answer the heartbeat in ways of their own.
func TestParents(t *testing.T) {
	const short = "neb.heartbeat=1500ms"
	application := described(t, contract.Description{Cmd: []string{"/probe", "say=started"}},
		program("probe", probeProgram(t, eif.X86_64)))
	started := []string{said("say=started", `"started"`), `^neb: exit status=0$`}
	answer := func(b byte) vsock.Handler {
		return func(_ context.Context, c *vsock.Conn) {
			c.Accept()
			var got [1]byte
			c.Read(got[:])
			c.Write([]byte{b})
			c.Read(got[:])
		}
	}
	refusals := 0
	for name, c := range map[string]struct {
		parent vsock.Handler
		scene
	}{
		"wrong byte": {answer(0xb8),
			scene{want: []string{`^neb: heartbeat: the parent answered 0xb8 at port 9000, expected 0xb7$`}}},
		"never answers": {func(ctx context.Context, c *vsock.Conn) { c.Accept(); <-ctx.Done() },
			scene{cmdline: short, want: []string{`^neb: heartbeat: connection timed out: the parent accepted the connection to port 9000 and did not answer within 1.5s$`}}},
		"closes": {func(_ context.Context, c *vsock.Conn) { c.Accept(); c.Read(make([]byte, 1)) },
			scene{cmdline: short, want: []string{`^neb: heartbeat: .*instead of answering$`}, slow: true}},
		"nobody": {func(context.Context, *vsock.Conn) {},
			scene{cmdline: short, want: []string{`^neb: heartbeat: connection (reset by peer|timed out): (nobody listens on port 9000 of the parent|the parent \(CID 3, port 9000\) does not answer).*; tried for 1.5s$`}}},
		"late": {func(ctx context.Context, c *vsock.Conn) {
			if refusals++; refusals > 3 {
				answer(contract.HeartbeatByte)(ctx, c)
			}
		}, scene{want: started}},
		"answers after a second": {func(ctx context.Context, c *vsock.Conn) {
			c.Accept()
			time.Sleep(time.Second)
			answer(contract.HeartbeatByte)(ctx, c)
		}, scene{want: started, slow: true}},
	} {
		if c.slow && !slow {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c.second, c.scene.parent = application, map[uint32]vsock.Handler{contract.HeartbeatPort: c.parent}
			if len(c.want) == 1 {
				c.never = append(c.never, "^probe")
			}
			c.run(t)
		})
	}
	if refusals != 4 {
		t.Errorf("%d connections, expected 3 that are refused and 1 that is accepted", refusals)
	}
}

// TestReports looks at what the parent is told, with a console and without one.
func TestReports(t *testing.T) {
	for name, c := range map[string]struct {
		cmd     []string
		console string
		qemu    []string
		want    contract.Report
	}{
		"no command": {[]string{"/none"}, "", nil, contract.Report{Phase: "exec"}},
		"another console than the machine has": {[]string{"/probe", "write=/dev/stdout", "die=SIGKILL"},
			"ttyS7", nil, contract.Report{Phase: "exit", Signal: "SIGKILL"}},
		"no serial port at all": {[]string{"/probe", "write=/dev/stdout", "exit=9"}, "",
			[]string{"-machine", "isa-serial=off"}, contract.Report{Phase: "exit", Status: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			reports := make(chan []byte, 4)
			s := scene{
				second: described(t, contract.Description{Cmd: c.cmd, ExitReport: 9001, Complete: true},
					program("probe", probeProgram(t, eif.X86_64))),
				parent: map[uint32]vsock.Handler{9001: func(_ context.Context, conn *vsock.Conn) {
					conn.Accept()
					b, _ := io.ReadAll(conn)
					reports <- b
				}},
				console: c.console, qemu: c.qemu,
			}
			if lines := s.run(t); c.qemu != nil && len(lines) > 0 {
				t.Errorf("a machine without a serial port said %q", lines)
			}
			select {
			case b := <-reports:
				if got, err := contract.DecodeReport(string(b)); err != nil || got != c.want {
					t.Errorf("got %+v, %v; want %+v", got, err, c.want)
				}
			default:
				t.Error("no report")
			}
		})
	}
}

// TestErofs boots an application from an erofs image, whole and in parts.
func TestErofs(t *testing.T) {
	require.Root(t)
	mkfs := require.Command(t, "mkfs.erofs")
	tree, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(filepath.Join(tree, "probe"), probeProgram(t, eif.X86_64), 0o755); err != nil {
		t.Fatal(err)
	}
	// cap_net_admin, effective and permitted (struct vfs_cap_data, version 2).
	capability := "\x01\x00\x00\x02\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if err := unix.Setxattr(filepath.Join(tree, "probe"), "security.capability", []byte(capability),
		0); err != nil {
		require.Lacks(t, "a temporary directory with file capabilities ("+err.Error()+")")
	}
	if err := os.Mkdir(filepath.Join(tree, "ro"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "ro", "file"), bytes.Repeat([]byte("content\n"), 1<<16),
		0o644); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 20<<20) // what does not shrink
	rand.NewChaCha8([32]byte{}).Read(noise)
	if err := os.WriteFile(filepath.Join(tree, "noise"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	if words, err := exec.Command(mkfs, "-zlz4", image, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, words)
	}
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	words := script{
		"mount=/", "overlay overlay " +
			"rw,relatime,lowerdir=/neb/lower,upperdir=/neb/rw/upper,workdir=/neb/rw/work,uuid=on",
		"attr=/probe,security.capability", "0100000200100000" + strings.Repeat("0", 24),
		"sum=/noise", fmt.Sprintf("%x", sha256.Sum256(noise)),
		"bytes=/ro/file", strconv.Itoa(8 << 16),
		"write=/ro/file", "ok",
		"write=/ro/new", "ok",
		"bytes=/ro/file", strconv.Itoa(8<<16 + len("written to /ro/file\n")),
		"as=1000,addlo", "EEXIST", // not EPERM: the file's capability counts
		"rss", "",
	}
	for _, parts := range []int{1, 3} {
		if parts == 1 && !slow {
			continue
		}
		t.Run(strconv.Itoa(parts), func(t *testing.T) {
			d := contract.Description{Cmd: append([]string{"/probe"}, words.words()...),
				ErofsParts: uint32(parts), Complete: true, CapAdd: []string{"NET_ADMIN"}}
			second := described(t, d)
			// One of three is longer than what join copies before it gives memory back.
			cuts := []int{0, len(content)}
			if parts == 3 {
				cuts = []int{0, 1 << 20, 1<<20 + joinStep + 1<<20, len(content)}
			}
			for i := range parts {
				second = append(second, text(strings.TrimPrefix(contract.RootPart(i), "/"),
					string(content[cuts[i]:cuts[i+1]])))
				last(second)
			}
			s := scene{second: second, want: words.want(`^neb: exit status=0$`)}
			s.run(t)
		})
	}
}

// TestLinger looks at the time between a failure's line and the end.
func TestLinger(t *testing.T) {
	if !slow {
		t.Skip("needs -tags slow")
	}
	var began time.Time
	s := scene{second: plain("/none\n", ""), want: []string{`^neb: exec /none: `}, linger: true,
		during: func(_ testing.TB, m *machine.Machine) {
			select {
			case <-m.Beat():
			case <-m.Done(): // it died before: run says how
			}
			began = time.Now()
		}}
	s.run(t)
	if d := time.Since(began); d < 2*time.Second {
		t.Errorf("the machine ended %v after the heartbeat, want at least 2s", d)
	}
}

// TestAarch64 boots both modes on the other architecture, and some failures.
func TestAarch64(t *testing.T) {
	probe := program("probe", probeProgram(t, eif.AArch64))
	words := script{
		"id", "1000 0 []",
		"mount=/sys/fs/cgroup", "cgroup2 cgroup2 ro,nosuid,nodev,noexec,relatime",
		"lo", "true [127.0.0.1/8 ::1/128]",
		"write=/dev/stdout", "ok",
		"stat=/dev/nsm", "020600 1000:0 0",
	}
	table := map[string]scene{
		"nitro-cli": {arch: eif.AArch64,
			second: plain("/probe\nenv\nkill1=SIGTERM\nkill1=SIGSEGV\nexit=3\n", "A=b\n", probe),
			want: []string{said("env", `["A=b"]`), said("kill1=SIGTERM", "SIGTERM"),
				said("kill1=SIGSEGV", "none"), `^neb: exit status=3$`}},
		"structured": {arch: eif.AArch64,
			second: described(t, contract.Description{Entrypoint: []string{"/probe"}, Cmd: words.words(),
				User: "1000", Complete: true}, probe), want: words.want(`^neb: exit status=0$`)},
		"for another machine": {
			arch: eif.AArch64, second: described(t,
				contract.Description{Cmd: []string{"/start"}, Complete: true},
				program("start", elfFile(62, ""))),
			want: []string{`^neb: exec /start: exec format error: it was built for x86_64, and this enclave is aarch64$`}, beats: true,
		},
		"PID 1": pid1(eif.AArch64, t),
		"no /cmd": {arch: eif.AArch64, second: plain("", "")[:7],
			want: []string{`^neb: read /cmd: no such file or directory: `}, beats: true},
	}
	slowly(t, table, "for another machine", "no /cmd")
	all(t, table)
}
