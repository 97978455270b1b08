//go:build linux

// Package seccomp limits the system calls of a thread and of what it starts.
package seccomp

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Call is a system call by its number, or those of its calls in which an argument has a value.
type Call struct {
	Number uint32
	Arg    int    // index of the argument plus one; 0: any arguments
	Mask   uint32 // selects bits of the argument's low 32 bits
	Value  uint32 // of the selected bits
}

// Allow is the action that lets a call through; SECCOMP_SET_MODE_FILTER in seccomp(2) has the others.
const Allow = unix.SECCOMP_RET_ALLOW

// Fail is the action that makes a call fail with errno.
func Fail(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

// Deny makes system calls, of any arguments, fail with errno in the calling thread and its children. It also
// takes the right to gain privileges (no_new_privs) away from them, without which only root may install a
// filter.
func Deny(errno unix.Errno, numbers ...uint32) error {
	calls := make([]Call, len(numbers))
	for i, n := range numbers {
		calls[i].Number = n
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return errors.New("set no_new_privs: " + err.Error())
	}
	return Install(calls, Fail(errno), Allow, 0)
}

// Install gives the calling thread and its children, and with SECCOMP_FILTER_FLAG_TSYNC in flags all threads,
// a filter with one action for the calls and another for all others. The caller needs CAP_SYS_ADMIN or
// no_new_privs. The calls of every other ABI of the kernel fail with ENOSYS, as where it has none.
func Install(calls []Call, on, otherwise uint32, flags uintptr) error {
	var native uint32
	switch runtime.GOARCH {
	case "amd64":
		native = unix.AUDIT_ARCH_X86_64
	case "arm64":
		native = unix.AUDIT_ARCH_AARCH64
	default:
		return errors.New("no system call filter for " + runtime.GOARCH)
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(k uint32, skip uint8) unix.SockFilter { // continues, or skips
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	act := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

	const (
		offsetNumber, offsetArch, offsetArgs = 0, 4, 16 // struct seccomp_data of linux/seccomp.h
		// on x86-64 the x32 ABI has the numbers from here on
		x32 = 0x40000000
	)
	program := []unix.SockFilter{
		load(offsetArch), equal(native, 2),
		load(offsetNumber), {Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32, Jf: 1},
		act(Fail(unix.ENOSYS)),
	}
	for _, c := range calls {
		if c.Arg == 0 {
			program = append(program, equal(c.Number, 1), act(on))
			continue
		}
		program = append(program, equal(c.Number, 5), load(uint32(offsetArgs+8*(c.Arg-1))), // little-endian
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.Mask},
			equal(c.Value, 1), act(on), act(otherwise))
	}
	program = append(program, act(otherwise))
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return errno
	}
	return nil
}
