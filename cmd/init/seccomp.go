//go:build linux && (amd64 || arm64)

package main

import (
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/seccomp"
)

// carrierCalls are what the carrier may call: its own dozen, and what the Go runtime needs for memory,
// threads and time.
var carrierCalls = []seccomp.Call{
	{Number: unix.SYS_READ}, {Number: unix.SYS_WRITE}, {Number: unix.SYS_READV}, {Number: unix.SYS_WRITEV},
	{Number: unix.SYS_CLOSE}, {Number: unix.SYS_PPOLL},
	{Number: unix.SYS_SOCKET, Arg: 1, Mask: 0xffffffff, Value: unix.AF_VSOCK},
	{Number: unix.SYS_CONNECT}, {Number: unix.SYS_GETSOCKOPT}, {Number: unix.SYS_EXIT_GROUP},

	{Number: unix.SYS_MMAP, Arg: 3, Mask: unix.PROT_EXEC}, {Number: unix.SYS_MUNMAP},
	{Number: unix.SYS_MADVISE},
	{Number: unix.SYS_CLONE, Arg: 1, Mask: unix.CLONE_THREAD, Value: unix.CLONE_THREAD},
	{Number: unix.SYS_EXIT},
	{Number: unix.SYS_FUTEX}, {Number: unix.SYS_NANOSLEEP}, {Number: unix.SYS_CLOCK_GETTIME},
	{Number: unix.SYS_SCHED_YIELD}, {Number: unix.SYS_SCHED_GETAFFINITY},
	{Number: unix.SYS_GETPID}, {Number: unix.SYS_GETTID}, {Number: unix.SYS_TGKILL},
	{Number: unix.SYS_RT_SIGPROCMASK}, {Number: unix.SYS_RT_SIGRETURN}, {Number: unix.SYS_SIGALTSTACK},
	{Number: unix.SYS_EPOLL_CREATE1}, {Number: unix.SYS_EPOLL_CTL}, {Number: unix.SYS_EPOLL_PWAIT},
	{Number: unix.SYS_EVENTFD2},
}

// noVSOCK are the calls that an application whose network is limited must not make.
var noVSOCK = []seccomp.Call{
	{Number: unix.SYS_SOCKET, Arg: 1, Mask: 0xffffffff, Value: unix.AF_VSOCK},
	{Number: unix.SYS_IO_URING_SETUP},
}
