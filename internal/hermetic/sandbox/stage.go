package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/seccomp"
)

// If a program that imports this package is started with the name stageName, it is the first process of a
// sandbox: it sets up the sandbox and runs the command. This is an init function so that it comes first,
// also in test binaries.
func init() {
	if len(os.Args) == 1 && os.Args[0] == stageName {
		runtime.LockOSThread() // capabilities and system call filters belong to a thread
		os.Exit(stage())
	}
}

// stage returns the exit status of the command, as in a shell.
func stage() int {
	fail := os.NewFile(4, "failure")
	// Also what neb itself inherited without knowing: a directory would lead out of the sandbox.
	closed := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	for fd := 3; closed != nil && fd < 1<<16; fd++ { // Linux before 5.11
		unix.CloseOnExec(fd)
	}
	var s spec
	code := 0
	err := json.NewDecoder(os.NewFile(3, "spec")).Decode(&s)
	if err == nil {
		code, err = s.run(fail)
	}
	if err != nil {
		fmt.Fprint(fail, err)
		return 1
	}
	return code
}

// run sets up the sandbox, runs the command and returns its exit status. It closes ready when the command
// has started.
func (s spec) run(ready *os.File) (int, error) {
	unix.Umask(0o022)
	// As with setarch(8), a personality can change what uname(2) says.
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0, 0, 0); errno != 0 {
		return 0, fmt.Errorf("reset personality: %w", errno)
	}
	attr := &syscall.ProcAttr{
		Dir:   Build,
		Env:   s.Env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{},
	}
	if s.Mode == Chroot {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 0, fmt.Errorf("become subreaper: %w", err)
		}
		attr.Sys.Chroot = filepath.Join(s.Work, "root")
		attr.Sys.Credential = &syscall.Credential{Uid: chrootID, Gid: chrootID}
		attr.Sys.Pdeathsig = syscall.SIGKILL
		// Without sockets there is no network; io_uring can make them too. socketpair cannot reach any.
		if err := seccomp.Deny(unix.EACCES, unix.SYS_SOCKET, unix.SYS_IO_URING_SETUP); err != nil {
			return 0, err
		}
	} else {
		if err := s.mounts(); err != nil {
			return 0, err
		}
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return 0, fmt.Errorf("set host name: %w", err)
		}
		if err := dropCapabilities(); err != nil {
			return 0, err
		}
	}
	if len(s.Args) == 0 {
		return 0, s.tryStart(attr)
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	child, err := syscall.ForkExec(s.Args[0], s.Args, attr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", s.Args[0], err)
	}
	ready.Close()
	if s.Mode == Chroot {
		go func() {
			<-stop
			killChildren()
			os.Exit(128 + int(syscall.SIGTERM))
		}()
		defer killChildren()
	}
	// As pid 1 or subreaper this process inherits all orphans.
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for %s: %w", s.Args[0], err)
		case pid == child && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == child:
			return status.ExitStatus(), nil
		}
	}
}

// tryStart ends a trial of [Choose]. chroot and setuid fail only when a program is started, so it starts
// one that does not exist.
func (s spec) tryStart(attr *syscall.ProcAttr) error {
	if s.Mode != Chroot {
		return nil
	}
	if _, err := syscall.ForkExec("/nothing", []string{"/nothing"}, attr); !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("chroot: %w", err)
	}
	return nil
}

// killChildren kills the children of this process until none are left. It inherits the children of those it
// kills.
func killChildren() {
	for {
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, task := range tasks {
			list, _ := os.ReadFile(task)
			for _, word := range strings.Fields(string(list)) {
				if pid, err := strconv.Atoi(word); err == nil {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if _, err := syscall.Wait4(-1, nil, 0, nil); errors.Is(err, syscall.ECHILD) {
			return
		}
	}
}

// ownDirs lists the directories of a root that do not come from [Command.Root].
var ownDirs = []string{"dev", "proc", "sys", "tmp", "build", "src", "out"}

// devices lists the devices in /dev. A build cannot read any state of the machine from them.
var devices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9},
}

var devLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
	"stderr": "/proc/self/fd/2",
}

// mounts sets up the file system in a mount namespace and makes it the root.
func (s spec) mounts() error {
	root := filepath.Join(s.Work, "root")
	// Mounts must not propagate to the host.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return err
	}
	at := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range ownDirs {
		if err := os.Mkdir(at(dir), 0o755); err != nil {
			return err
		}
	}

	entries, err := os.ReadDir(s.Root)
	if err != nil {
		return err
	}
	trees := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(s.Root, e.Name())
		switch {
		case slices.Contains(ownDirs, e.Name()):
		case e.Type() == os.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, at(e.Name())); err != nil {
				return err
			}
		case e.IsDir():
			trees[e.Name()] = path
		default:
			return fmt.Errorf("%s: expected a directory or symbolic link, found %v", path, e.Type())
		}
	}
	for inside, outside := range s.Trees {
		trees[inside] = outside
	}
	for inside, outside := range trees {
		if err := os.MkdirAll(at(inside), 0o755); err != nil {
			return err
		}
		if err := bind(outside, at(inside), unix.MS_RDONLY|unix.MS_NODEV); err != nil {
			return err
		}
	}
	for _, dir := range writable {
		if err := bind(filepath.Join(s.Work, dir), at(dir), unix.MS_NODEV); err != nil {
			return err
		}
	}

	for _, d := range devices {
		path := at("dev/" + d.name)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			return err
		}
		// Read-only: a device can be written to nevertheless, and root cannot change its permissions, which
		// are the machine's.
		if err := bind("/dev/"+d.name, path, unix.MS_RDONLY); err != nil {
			return err
		}
	}
	for name, target := range devLinks {
		if err := os.Symlink(target, at("dev/"+name)); err != nil {
			return err
		}
	}
	// Read-only: root may write to the machine's settings, such as kernel.core_pattern, without any
	// capability. The kernel denies a new proc in a container whose own /proc is partly covered. Builds work
	// without.
	err = mount("proc", at("proc"), "proc", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV,
		""); err != nil {
		return err
	}

	// Stack the old root on the new one and unmount it: see pivot_root(".", ".") in pivot_root(2).
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	return os.Chdir("/")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s%s on %s: %w", source, fstype, target, err)
	}
	return nil
}

// bind mounts outside on inside, nosuid and with flags.
func bind(outside, inside string, flags uintptr) error {
	if err := mount(outside, inside, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	// In a user namespace the flags of the original mount must be kept.
	var fs unix.Statfs_t
	if err := unix.Statfs(inside, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: inside, Err: err}
	}
	for _, f := range []struct {
		st int64
		ms uintptr
	}{
		{unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC}, {unix.ST_NOATIME, unix.MS_NOATIME},
		{unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if fs.Flags&f.st != 0 {
			flags |= f.ms
		}
	}
	return mount("", inside, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|flags, "")
}

// dropCapabilities drops all capabilities of this thread and its children.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break // behind the last one of this kernel
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
