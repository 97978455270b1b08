//go:build linux

// Package seccomp denies system calls to a thread and to what it starts.
package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// audit is the audit architecture of the native ABI, by GOARCH.
var audit = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Deny makes system calls fail with errno in the calling thread and its children: at most 200 calls, by their
// numbers, and those of every other ABI. It also takes the right to gain privileges (no_new_privs) away from
// them, without which only root may install a filter.
func Deny(errno unix.Errno, calls ...uint32) error {
	arch, ok := audit[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer  = unix.BPF_RET | unix.BPF_K

		offsetNr, offsetArch = 0, 4       // struct seccomp_data: int nr; __u32 arch; …
		x32                  = 0x40000000 // on x86-64 the x32 ABI has the numbers from here on
	)
	n := uint8(len(calls))
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: equal, K: arch, Jf: n + 3},
		{Code: load, K: offsetNr},
		{Code: atLeast, K: x32, Jt: n + 1},
	}
	for i, call := range calls {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jt: n - uint8(i)})
	}
	program = append(program,
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
	)
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
	if err != nil {
		return fmt.Errorf("install system call filter: %w", err)
	}
	return nil
}
