//go:build linux && (amd64 || arm64)

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A systemCall is a system call, or those of its calls in which an argument has a value.
type systemCall struct {
	number uint32
	arg    int // index of the argument plus one; 0: any arguments
	mask   uint32
	value  uint32
}

const seccompErrno = unix.SECCOMP_RET_ERRNO

// carrierCalls are what the carrier may call: its own dozen, and what the Go runtime needs for memory,
// threads and time.
var carrierCalls = []systemCall{
	{number: unix.SYS_READ}, {number: unix.SYS_WRITE}, {number: unix.SYS_READV}, {number: unix.SYS_WRITEV},
	{number: unix.SYS_CLOSE}, {number: unix.SYS_PPOLL},
	{unix.SYS_SOCKET, 1, 0xffffffff, unix.AF_VSOCK},
	{number: unix.SYS_CONNECT}, {number: unix.SYS_GETSOCKOPT}, {number: unix.SYS_EXIT_GROUP},

	{unix.SYS_MMAP, 3, unix.PROT_EXEC, 0}, {number: unix.SYS_MUNMAP}, {number: unix.SYS_MADVISE},
	{unix.SYS_CLONE, 1, unix.CLONE_THREAD, unix.CLONE_THREAD}, {number: unix.SYS_EXIT},
	{number: unix.SYS_FUTEX}, {number: unix.SYS_NANOSLEEP}, {number: unix.SYS_CLOCK_GETTIME},
	{number: unix.SYS_SCHED_YIELD}, {number: unix.SYS_SCHED_GETAFFINITY},
	{number: unix.SYS_GETPID}, {number: unix.SYS_GETTID}, {number: unix.SYS_TGKILL},
	{number: unix.SYS_RT_SIGPROCMASK}, {number: unix.SYS_RT_SIGRETURN}, {number: unix.SYS_SIGALTSTACK},
	{number: unix.SYS_EPOLL_CREATE1}, {number: unix.SYS_EPOLL_CTL}, {number: unix.SYS_EPOLL_PWAIT},
	{number: unix.SYS_EVENTFD2},
}

// noVSOCK are the calls that an application whose network is limited must not make.
var noVSOCK = []systemCall{
	{unix.SYS_SOCKET, 1, 0xffffffff, unix.AF_VSOCK},
	{number: unix.SYS_IO_URING_SETUP},
}

// filterCalls gives this thread, and with SECCOMP_FILTER_FLAG_TSYNC in flags all threads, a filter that acts
// on the calls in one way, and on all others in another. Calls of another architecture end the process.
func filterCalls(calls []systemCall, on, otherwise uint32, flags uintptr) error {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(k uint32, skip uint8) unix.SockFilter { // continues, or skips
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	act := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

	// struct seccomp_data of linux/seccomp.h: number, architecture, instruction pointer, arguments.
	wrong := equal(auditArch, 0)
	wrong.Jt = 1
	program := []unix.SockFilter{load(4), wrong, act(unix.SECCOMP_RET_KILL_PROCESS), load(0)}
	for _, c := range calls {
		if c.arg == 0 {
			program = append(program, equal(c.number, 1), act(on))
			continue
		}
		program = append(program, equal(c.number, 5), load(uint32(16+8*(c.arg-1))),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
			equal(c.value, 1), act(on), act(otherwise))
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
