//go:build linux && (amd64 || arm64)

package seccomp

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInstall(t *testing.T) {
	const x32 = 0x40000000 | unix.SYS_GETPPID
	calls := []Call{
		{Number: unix.SYS_SOCKET, Arg: 1, Mask: 0xffffffff, Value: unix.AF_UNIX},
		{Number: unix.SYS_FCNTL, Arg: 2, Mask: 1, Value: 1}, // F_GETFD, F_GETFL
		{Number: unix.SYS_GETPPID},
		{Number: x32}, // which the filter does not take for one of its own
	}
	probes := []struct {
		name      string
		call      [4]uintptr
		want, old unix.Errno
	}{
		{"socket(AF_UNIX)", [4]uintptr{unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM}, unix.EXDEV, 0},
		{"socket(AF_INET)", [4]uintptr{unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM}, 0, 0},
		{"socket(AF_UNIX), high bits", [4]uintptr{unix.SYS_SOCKET, 1<<32 | unix.AF_UNIX, unix.SOCK_DGRAM},
			unix.EXDEV, 0},
		{"fcntl(F_GETFD)", [4]uintptr{unix.SYS_FCNTL, 0, unix.F_GETFD}, unix.EXDEV, 0},
		{"fcntl(F_SETFD)", [4]uintptr{unix.SYS_FCNTL, ^uintptr(0), unix.F_SETFD}, unix.EBADF, unix.EBADF},
		{"getppid()", [4]uintptr{unix.SYS_GETPPID}, unix.EXDEV, 0},
		{"getpid()", [4]uintptr{unix.SYS_GETPID}, 0, 0},
		{"getppid() of x32", [4]uintptr{x32}, unix.ENOSYS, unix.ENOSYS},
	}
	probe := func(call [4]uintptr) unix.Errno {
		fd, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3])
		if call[0] == unix.SYS_SOCKET && errno == 0 {
			unix.Close(int(fd))
		}
		return errno
	}
	onThread(t, func() error {
		for _, p := range probes {
			if got := probe(p.call); got != p.old {
				t.Errorf("%s without a filter: errno %d, expected %d", p.name, got, p.old)
			}
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		if err := Install(calls, Fail(unix.EXDEV), Allow, 0); err != nil {
			return err
		}
		for _, p := range probes {
			if got := probe(p.call); got != p.want {
				t.Errorf("%s: errno %d, expected %d", p.name, got, p.want)
			}
		}
		return nil
	})
}

func TestDeny(t *testing.T) {
	onThread(t, func() error {
		if err := Deny(unix.EXDEV, unix.SYS_SOCKET, unix.SYS_GETPPID); err != nil {
			return err
		}
		if _, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != unix.EXDEV {
			t.Errorf("socket: %v, expected %v", err, unix.EXDEV)
		}
		if privileges, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); privileges != 1 {
			t.Errorf("no_new_privs: %d, %v, expected 1", privileges, err)
		}
		return nil
	})
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
		t.Errorf("socket of another thread: %v", err)
	} else {
		unix.Close(fd)
	}
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(t *testing.T, f func() error) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}
