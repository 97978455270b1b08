//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	devFlags   = unix.MS_NOSUID | unix.MS_NOEXEC
	procFlags  = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	tmpFlags   = unix.MS_NODEV | unix.MS_NOSUID // programs unpack libraries there
	cgroupRoot = "/sys/fs/cgroup"
)

// mounts are mounted in the new root, in order; /dev and /proc are already. Flags and options in nitro-cli's
// mode are those of the reference init. Missing directories are created.
var mounts = []struct {
	source, where, kind string
	flags               uintptr
	options             string
	when                func(*enclave) bool
	is                  int
}{
	{"tmpfs", "/run", "tmpfs", procFlags, "mode=0755", inNitroCLIMode, 0},
	{"tmpfs", "/run", "tmpfs", tmpFlags, "mode=0755", inStructuredMode, filled},
	{"tmpfs", "/tmp", "tmpfs", procFlags, "", inNitroCLIMode, 0},
	{"tmpfs", "/tmp", "tmpfs", tmpFlags, "", inStructuredMode, filled},
	{"shm", "/dev/shm", "tmpfs", procFlags, "", nil, 0},
	{"devpts", "/dev/pts", "devpts", devFlags, "", inNitroCLIMode, 0},
	{"devpts", "/dev/pts", "devpts", devFlags, "mode=0620,ptmxmode=0666,gid=5", inStructuredMode, 0},
	{"mqueue", "/dev/mqueue", "mqueue", procFlags, "", inStructuredMode, optional},
	{"sysfs", "/sys", "sysfs", procFlags, "", nil, 0},
	{"cgroup_root", cgroupRoot, "tmpfs", procFlags, "mode=0755", withCgroupV1, 0},
	{"cgroup2", cgroupRoot, "cgroup2", procFlags, "", withCgroupV2, 0},
}

const (
	optional = 1 + iota // do without, where the kernel does not know the kind
	filled              // with what the image has there
)

func inStructuredMode(e *enclave) bool { return e.structured }
func inNitroCLIMode(e *enclave) bool   { return !e.structured }
func withCgroupV1(e *enclave) bool     { return e.switches.cgroupV1 }
func withCgroupV2(e *enclave) bool     { return !e.switches.cgroupV1 }

// links are created in /dev.
var links = []struct{ name, target string }{
	{"/dev/fd", "/proc/self/fd"},
	{"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"},
}

func (e *enclave) mountAll() error {
	for _, l := range links {
		if err := unix.Symlink(l.target, l.name); err != nil && err != unix.EEXIST {
			return fail("create", l.name, err)
		}
	}
	for _, m := range mounts {
		if m.when != nil && !m.when(e) {
			continue
		}
		below := -1
		if m.is == filled {
			below, _ = open(m.where, unix.O_PATH|unix.O_DIRECTORY) // fails where the image has none
		}
		err := unix.Mount(m.source, m.where, m.kind, m.flags, m.options)
		if err == unix.ENOENT {
			if err := mkdirAll(m.where, 0o755); err != nil {
				return err
			}
			err = unix.Mount(m.source, m.where, m.kind, m.flags, m.options)
		}
		if err != nil && !(m.is == optional && err == unix.ENODEV) {
			return fail("mount", m.where, err)
		}
		if below >= 0 {
			err := moveTree("/proc/self/fd/"+strconv.Itoa(below), m.where, map[uint64]string{})
			unix.Close(below)
			if err != nil {
				return err
			}
		}
	}
	if e.switches.cgroupV1 {
		return mountCgroupV1()
	}
	delegate()
	return nil
}

// mountCgroupV1 mounts each controller in /proc/cgroups in its own directory. It warns about and skips those
// that the kernel does not offer as version 1 (cpuset and memory are options since Linux 6.12), where the
// reference init would fail.
func mountCgroupV1() error {
	table, err := readFile("/proc/cgroups", 1<<16)
	if err != nil {
		return fail("read", "/proc/cgroups", err)
	}
	for _, name := range controllersV1(table) {
		dir := cgroupRoot + "/" + name
		if err := mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(name, dir, "cgroup", procFlags, name); err != nil {
			warn(fail("mount", dir, err).because("the kernel has no version 1 of this controller"))
			unix.Rmdir(dir)
		}
	}
	return nil
}

// controllersV1 returns the enabled controllers of /proc/cgroups: "#subsys_name hierarchy num_cgroups
// enabled".
func controllersV1(table string) []string {
	var all []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0][0] != '#' && f[3] != "0" {
			all = append(all, f[0])
		}
	}
	return all
}

// delegate enables every controller of cgroup v2 for the groups below the root.
func delegate() {
	const from, to = cgroupRoot + "/cgroup.controllers", cgroupRoot + "/cgroup.subtree_control"
	b, err := readFile(from, 4096)
	if err != nil {
		warn(fail("read", from, err))
		return
	}
	names := strings.Fields(b)
	if len(names) == 0 {
		return
	}
	if writeFile(to, "+"+strings.Join(names, " +"), 0) == nil {
		return
	}
	for _, name := range names { // all or none are taken at once: find out which is the bad one
		if err := writeFile(to, "+"+name, 0); err != nil {
			warn(fail("enable the cgroup controller", name, err))
		}
	}
}
