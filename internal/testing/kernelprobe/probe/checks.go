package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A check tries one thing.
type check struct {
	name string
	try  func() error
}

// fileSystems must be in /proc/filesystems.
var fileSystems = []string{
	"tmpfs", "devtmpfs", "proc", "sysfs", "ext2", "ext3", "ext4", "overlay", "erofs", "squashfs", "fuse",
	"hugetlbfs",
	"mqueue", "bpf", "cgroup", "cgroup2", "devpts",
}

// sockets must open.
var sockets = []struct {
	name                   string
	family, kind, protocol int
}{
	{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0},
	{"ipv4", unix.AF_INET, unix.SOCK_STREAM, 0},
	{"ipv6", unix.AF_INET6, unix.SOCK_STREAM, 0},
	{"icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
	{"unix", unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
	{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0},
	{"netlink route", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
	{"netlink netfilter", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER},
	{"netlink sock_diag", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG},
	{"netlink uevent", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT},
}

// algorithms must be there through AF_ALG.
var algorithms = []struct{ kind, name string }{
	{"hash", "sha256"}, {"hash", "sha512"}, {"hash", "hmac(sha256)"}, {"hash", "crc32c"},
	{"hash", "sha3-256"},
	{"skcipher", "xts(aes)"}, {"skcipher", "cbc(aes)"}, {"skcipher", "ctr(aes)"},
	{"aead", "gcm(aes)"}, {"aead", "rfc7539(chacha20,poly1305)"},
}

const restrict = "/proc/sys/crypto/af_alg_restrict"

// namespaces must be creatable.
var namespaces = []struct {
	name string
	flag int
}{
	{"mnt", unix.CLONE_NEWNS}, {"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC},
	{"net", unix.CLONE_NEWNET},
	{"cgroup", unix.CLONE_NEWCGROUP}, {"time", 0x80}, {"pid", unix.CLONE_NEWPID},
}

// paths must exist, or must not.
var paths = []struct {
	path string
	want bool
}{
	{"/proc/sys/kernel/seccomp/actions_avail", true},
	{"/proc/sys/net/netfilter/nf_conntrack_max", true},
	{"/proc/sys/net/bridge/bridge-nf-call-iptables", true},
	{"/proc/sys/kernel/io_uring_disabled", true},
	{"/proc/sys/fs/aio-max-nr", true},
	{"/proc/self/ns/user", true},
	{"/sys/kernel/mm/transparent_hugepage/enabled", true},
	{"/sys/devices/system/node/node0", true},
	{"/dev/net/tun", true},
	{"/dev/fuse", true},
	{"/dev/loop-control", true},
	{"/dev/nbd0", true},
	{"/dev/zram0", true},
	{"/dev/mapper/control", true},
	{"/dev/hwrng", true},
	{"/dev/vsock", true},
	{"/dev/mem", false},
	{"/dev/kmem", false},
	{"/dev/port", false},
	{"/proc/kcore", false},
	{"/proc/sysrq-trigger", false},
	{"/sys/kernel/debug", false},
	{"/sys/power/state", false},
	{"/sys/kernel/kexec_loaded", false},
	{"/proc/sys/kernel/modules_disabled", true},
}

func checks() []check {
	all := []check{{"nsm.ko", loadNSM}}
	add := func(name string, try func() error) { all = append(all, check{name, try}) }
	all = append(all, []check{
		{"io_uring", ioUring}, {"bpf", bpf}, {"memfd", memfd}, {"keyctl", keyctl}, {"no kexec", noKexec},
		{"landlock", landlock}, {"yama", yama}, {"loopback", loopback}, {"nftables", nftables},
		{"links", links}, {"loop", loop}, {"dm targets", targets},
	}...)
	known, _ := os.ReadFile("/proc/filesystems")
	for _, name := range fileSystems {
		add("filesystem "+name, func() error {
			if !strings.Contains(string(known), "\t"+name+"\n") {
				return errors.New("not in /proc/filesystems")
			}
			return nil
		})
	}
	for _, s := range sockets {
		add("socket "+s.name, func() error {
			fd, err := unix.Socket(s.family, s.kind, s.protocol)
			unix.Close(fd)
			return err
		})
	}
	for _, a := range algorithms {
		add("AF_ALG "+a.kind+" "+a.name, func() error {
			fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			algorithm := &unix.SockaddrALG{Type: a.kind, Name: a.name}
			err = unix.Bind(fd, algorithm)
			// Linux 7.3 has a list of the algorithms that it lets programs use, and a switch that lifts it.
			if err == unix.ENOENT && os.WriteFile(restrict, []byte("0"), 0) == nil {
				fmt.Printf("probe: is restricted %s: yes\n", a.name)
				err = errors.Join(unix.Bind(fd, algorithm), os.WriteFile(restrict, []byte("1"), 0))
			}
			return err
		})
	}
	for _, p := range paths {
		verb := map[bool]string{true: "there is ", false: "there is no "}[p.want]
		add(verb+p.path, func() error {
			_, err := os.Stat(p.path)
			if (err == nil) != p.want {
				return fmt.Errorf("want %v, found %v", p.want, err == nil)
			}
			return nil
		})
	}
	all = append(all, cgroups()...)
	for _, n := range namespaces {
		add("namespace "+n.name, func() error { return unix.Unshare(n.flag) })
	}
	return all
}

// loadNSM loads the driver that stands beside init, if one does.
func loadNSM() error {
	module, err := os.Open("/nsm.ko")
	if err != nil {
		return err
	}
	defer module.Close()
	return unix.FinitModule(int(module.Fd()), "", 0)
}

// cgroups mounts every controller of /proc/cgroups as cgroup v1, as the reference's init does, one directory
// each.
func cgroups() []check {
	table, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return []check{{"/proc/cgroups", func() error { return err }}}
	}
	const base = "/sys/fs/cgroup"
	all := []check{{"mount " + base, func() error {
		return unix.Mount("cgroup_root", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
			"mode=0755")
	}}}
	for _, line := range strings.Split(string(table), "\n") {
		name, _, _ := strings.Cut(line, "\t")
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		all = append(all, check{"cgroup v1 " + name, func() error {
			at := filepath.Join(base, name)
			if err := os.Mkdir(at, 0o755); err != nil {
				return err
			}
			return unix.Mount(name, at, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, name)
		}})
	}
	for _, name := range []string{
		"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "perf_event",
		"net_prio", "hugetlb",
		"pids", "rdma", "misc",
	} {
		all = append(all, check{"controller " + name, func() error {
			if !strings.Contains("\n"+string(table), "\n"+name+"\t") {
				return errors.New("not in /proc/cgroups")
			}
			return nil
		}})
	}
	return append(all, check{"cgroup v2", func() error {
		os.Mkdir("/cgroup2", 0o755)
		return unix.Mount("cgroup2", "/cgroup2", "cgroup2", 0, "")
	}})
}

func ioUring() error {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// bpf loads "return 1" for sockets and for cgroups.
func bpf() error {
	const load = 5 // BPF_PROG_LOAD
	code := []uint64{0x00000001_000000b7, 0x95}
	license := []byte("GPL\x00")
	for name, kind := range map[string]uint32{"socket filter": 1, "cgroup skb": 8, "cgroup device": 15} {
		var attr bytes.Buffer
		binary.Write(&attr, binary.NativeEndian, kind)
		binary.Write(&attr, binary.NativeEndian, uint32(len(code)))
		binary.Write(&attr, binary.NativeEndian, uint64(uintptr(unsafe.Pointer(&code[0]))))
		binary.Write(&attr, binary.NativeEndian, uint64(uintptr(unsafe.Pointer(&license[0]))))
		attr.Write(make([]byte, 48))
		// The verifier gives up with EAGAIN when a signal is pending, and Go's scheduler sends them
		// (bpf_check, kernel/bpf/verifier.c).
		fd, _, errno := uintptr(0), uintptr(0), unix.EAGAIN
		for try := 0; try < 100 && errno == unix.EAGAIN; try++ {
			fd, _, errno = unix.Syscall(unix.SYS_BPF, load, uintptr(unsafe.Pointer(&attr.Bytes()[0])),
				uintptr(attr.Len()))
		}
		if errno != 0 {
			return fmt.Errorf("%s: %w", name, errno)
		}
		unix.Close(int(fd))
	}
	return nil
}

// yama must let a process trace its children alone.
func yama() error {
	const path = "/proc/sys/kernel/yama/ptrace_scope"
	scope, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(scope)) != "1" {
		err = fmt.Errorf("%s is %q, want 1", path, scope)
	}
	return err
}

func memfd() error {
	fd, err := unix.MemfdCreate("probe", unix.MFD_ALLOW_SEALING)
	unix.Close(fd)
	return err
}

func keyctl() error {
	_, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
	return err
}

func noKexec() error {
	_, _, errno := unix.Syscall(unix.SYS_KEXEC_LOAD, 0, 0, 0)
	if errno != unix.ENOSYS {
		//nolint:errorlint // neither is the cause of the other
		return fmt.Errorf("kexec_load: %v, want %v", errno, unix.ENOSYS)
	}
	return nil
}

func landlock() error {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version); errno != 0 {
		return errno
	}
	return nil
}

// loopback listens on vsock's own loopback and connects to it.
func loopback() error {
	const local, port = 1, 7000
	listener, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	if err := unix.Bind(listener, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return err
	}
	if err := unix.Listen(listener, 1); err != nil {
		return err
	}
	client, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	return unix.Connect(client, &unix.SockaddrVM{CID: local, Port: port})
}

// loop asks for a loop device, which is made then, and reads a file through it.
func loop() error {
	const want = "a block of a file"
	block := []byte(want + strings.Repeat("\x00", 4096-len(want)))
	if err := os.WriteFile("/loop.file", block, 0o600); err != nil {
		return err
	}
	file, err := os.Open("/loop.file")
	if err != nil {
		return err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fmt.Errorf("a free device: %w", err)
	}
	device, err := os.Open(fmt.Sprintf("/dev/loop%d", n))
	if err != nil {
		return err
	}
	defer device.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		return fmt.Errorf("%s: %w", device.Name(), err)
	}
	defer unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
	found := make([]byte, len(want))
	if _, err := io.ReadFull(device, found); err != nil {
		return err
	}
	if string(found) != want {
		return fmt.Errorf("%s holds %q, want %q", device.Name(), found, want)
	}
	return nil
}
