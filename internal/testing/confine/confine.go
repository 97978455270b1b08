// Package confine puts tests into the conditions of an unprivileged container, where builds have to work: its
// system call filter allows neither mounts nor namespaces.
package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NoNamespaces denies to the calling thread, and to what it executes from now on, what Docker's default
// filter denies to an unprivileged container: mount, unshare, and clone with any namespace flag. It locks the
// calling goroutine to its thread.
func NoNamespaces() error {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		anyBit = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		// struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]. Little-endian.
		nr, flags  = 0, 16
		namespaces = 0x7e020000 // CLONE_NEW*
	)
	program := []unix.SockFilter{
		{Code: load, K: nr},
		{Code: equal, K: unix.SYS_MOUNT, Jt: 4},
		{Code: equal, K: unix.SYS_UNSHARE, Jt: 3},
		{Code: equal, K: unix.SYS_CLONE, Jf: 3},
		{Code: load, K: flags},
		{Code: anyBit, K: namespaces, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
