package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nativeABI holds the audit architecture of the native ABI and the first system call number behind it, by
// GOARCH. On x86-64 the x32 ABI has the numbers from 0x40000000 on.
var nativeABI = map[string]struct{ audit, limit uint32 }{
	"amd64": {unix.AUDIT_ARCH_X86_64, 0x40000000},
	"arm64": {unix.AUDIT_ARCH_AARCH64, 0x40000000},
}

// denied lists the system calls that can reach the network; io_uring can create sockets. socketpair cannot.
var denied = []uint32{unix.SYS_SOCKET, unix.SYS_IO_URING_SETUP}

// filterSystemCalls denies the network to this thread and its children: system calls in denied, and those
// of another ABI, fail with EACCES.
func filterSystemCalls() error {
	if err := noNewPrivileges(); err != nil {
		return err
	}
	abi, ok := nativeABI[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer  = unix.BPF_RET | unix.BPF_K

		// struct seccomp_data: int nr; __u32 arch; …
		nr, arch = 0, 4
	)
	n := uint8(len(denied))
	program := []unix.SockFilter{
		{Code: load, K: arch},
		{Code: equal, K: abi.audit, Jf: n + 3},
		{Code: load, K: nr},
		{Code: atLeast, K: abi.limit, Jt: n + 1},
	}
	for i, call := range denied {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jt: n - uint8(i)})
	}
	program = append(program,
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)},
	)
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0,
		0); err != nil {
		return fmt.Errorf("install system call filter: %w", err)
	}
	return nil
}
