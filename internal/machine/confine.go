package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/seccomp"
)

// A guest that breaks QEMU finds itself in a process that may only do what QEMU needs. Two filters of the
// kernel hold for all users and wherever neb runs: seccomp denies systemCalls, and Landlock (since Linux
// 5.13) denies all files but a few, and from its fourth and sixth version on TCP, abstract sockets and
// signals too. Where namespaces can be made, QEMU also has its own user, network, process, IPC and host name.
// QEMU's own filter (-sandbox) denies to start programs.

// namespaces are those that a process gets together with a user namespace. No user is mapped into that:
// QEMU's file accesses stay those of the user, and it has no capability even there.
var namespaces uintptr = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS

// systemCalls fail with EPERM. QEMU inherits its connections and needs none of these.
var systemCalls = []uint32{
	unix.SYS_SOCKET, unix.SYS_IO_URING_SETUP, // io_uring makes sockets as well
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
}

// start starts a command that may read and execute what is in the directories of read, and change what is in
// write, and returns it with the protections that this machine lacks. command returns it with the
// given namespaces. The calling thread shares the restrictions, see [ownThread].
func start(command func(namespaces uintptr) *exec.Cmd, read []string, write string) (
	*exec.Cmd, []string, error) {
	var lacks []string
	if err := seccomp.Deny(unix.EPERM, systemCalls...); err != nil {
		lacks = append(lacks, fmt.Sprintf("QEMU can use the network: seccomp: %v", err))
	}
	if err := denyFiles(read, write); err != nil {
		lacks = append(lacks, fmt.Sprintf("QEMU can use all files of the user: Landlock: %v", err))
	}
	// Root keeps the capability that opens the files of other users, which Landlock limits. Others have none
	// to drop.
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if c != unix.CAP_DAC_OVERRIDE {
			unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	cmd := command(namespaces)
	err := cmd.Start()
	if err != nil { // such as in a container; everything else holds
		cmd = command(0)
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return cmd, lacks, nil
}

// ownThread runs f in a thread that ends with it, and with it every process that f started to die with its
// parent. It is not the main thread, which stands for the process where a process is confined with respect to
// another.
func ownThread(f func()) {
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread()
		locked := make(chan struct{})
		ownThread(func() {
			close(locked)
			f()
		})
		<-locked
	}()
}

// Rights of Landlock (Documentation/userspace-api/landlock.rst of Linux).
const (
	readTree = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_DIR
	useDevice = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | ioctl
	allRights = ioctl<<1 - 1
	ioctl     = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// rightsSince are the rights that versions of Landlock do not have yet, by the first version that does.
var rightsSince = map[uintptr]uint64{
	2: unix.LANDLOCK_ACCESS_FS_REFER, 3: unix.LANDLOCK_ACCESS_FS_TRUNCATE, 5: ioctl,
}

// devices are the files that QEMU uses besides its own. /dev/null is Go's standard input for it.
var devices = []string{"/dev/null", "/dev/kvm", "/dev/urandom"}

// denyFiles makes accesses to all other files fail in the calling thread and its children, as well as TCP,
// abstract sockets, and signals to processes other than its children.
func denyFiles(read []string, write string) error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0,
		unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	rules := unix.LandlockRulesetAttr{Handled_access_fs: allRights}
	for first, rights := range rightsSince {
		if version < first {
			rules.Handled_access_fs &^= rights
		}
	}
	if version >= 4 {
		rules.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		rules.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)),
		unsafe.Sizeof(rules), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(ruleset))
	allow := func(path string, rights uint64) error {
		f, err := os.OpenFile(path, unix.O_PATH, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		rule := unix.LandlockPathBeneathAttr{
			Allowed_access: rights & rules.Handled_access_fs, Parent_fd: int32(f.Fd()),
		}
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH,
			uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("%s: %w", path, errno)
		}
		return nil
	}
	err := allow(write, allRights&^unix.LANDLOCK_ACCESS_FS_EXECUTE)
	for _, path := range devices {
		err = errors.Join(err, allow(path, useDevice))
	}
	for _, path := range read {
		err = errors.Join(err, allow(path, readTree))
	}
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
